"""How large a model this machine can measure, and how long that will take."""

from __future__ import annotations

from pathlib import Path

from quickthaw.cli.bench.floors import WINDOW_BYTES

GPU_CONTEXT_BYTES = 600_000_000
LANE_BYTES = 350_000_000
"""A process with torch in it."""
BACKED_COPIES = 2.2
"""Memory that is made real before each run: what the hungriest peer needs, twice the model."""
BACKED_COPIES_ALONE = 1.05
"""The same where no peer is measured: a slab that is made inside the timing."""
MEMORY_COPIES = 4.5
"""The resident slab, the page cache, and a peer that holds a model twice at its peak."""
MEMORY_COPIES_ALONE = 3.15
"""The resident slab, the page cache, and a slab that is made inside the timing."""
MEMORY_COPIES_PINNED = 2.15
"""Where nothing is read while it is measured: the resident slab, and what is made real."""
GPU_COPIES = 2.1
GPU_COPIES_ALONE = 1.1
"""Ours has each byte once."""
USABLE_SHARE = 0.85
MAKE_BYTES_PER_SECOND = 0.5e9
RUN_BYTES_PER_SECOND = 0.6e9
RUN_SECONDS = 0.2
OPEN_SECONDS = 3.0


def nbytes_max(
    *,
    disk_bytes: int,
    memory_bytes: int,
    gpu_bytes: int | None,
    forms: int,
    lanes: int,
    alone: bool = False,
    pinned: bool = False,
) -> dict[str, int]:
    """What each resource has room for, by its name. `forms`: copies of the model on disk; `alone`:
    no peer is measured; `pinned`: no other tier is."""
    memory = USABLE_SHARE * memory_bytes - 2 * WINDOW_BYTES - lanes * LANE_BYTES
    found = {
        "disk": int(USABLE_SHARE * disk_bytes / max(forms, 1)),
        "memory": int(max(memory, 0.0) / _memory_copies(alone=alone, pinned=pinned)),
    }
    if gpu_bytes is not None:
        gpu = USABLE_SHARE * gpu_bytes - WINDOW_BYTES - lanes * GPU_CONTEXT_BYTES
        found["GPU memory"] = int(max(gpu, 0.0) / (GPU_COPIES_ALONE if alone else GPU_COPIES))
    return found


def _memory_copies(*, alone: bool, pinned: bool) -> float:
    if not alone:
        return MEMORY_COPIES
    return MEMORY_COPIES_PINNED if pinned else MEMORY_COPIES_ALONE


def backed_copies(*, alone: bool) -> float:
    """How many times the model's size of memory is made real before each run."""
    return BACKED_COPIES_ALONE if alone else BACKED_COPIES


def estimated_seconds(nbytes: int, *, forms: int, lanes: int, rows: int, rounds: int) -> float:
    """A guess before anything is known of this machine; good to a factor of two."""
    made = forms * nbytes / MAKE_BYTES_PER_SECOND
    run = nbytes / RUN_BYTES_PER_SECOND + RUN_SECONDS
    return made + lanes * OPEN_SECONDS + (rounds + 1) * rows * run


def available_memory_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """What the kernel could give now, or what this container may still take, if that is less."""
    lines = meminfo.read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    available = kilobytes * 1024
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, max(int(limit) - used, 0))
