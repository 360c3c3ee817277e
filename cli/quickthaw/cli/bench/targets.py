"""The goals that the load path was built to, beside what was measured. A miss is said as such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
"""The rows of a result, by key."""


@dataclass(frozen=True, slots=True)
class Target:
    """One goal. `measured` is None where this run says nothing about it."""

    goal: str
    wanted: float
    measured: float | None
    at_least: bool = True
    unit: str = "×"

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted


_FASTSAFETENSORS = ("fastsafetensors", "fastsafetensors-64", "fastsafetensors-buffered")
_CPU_PEERS: tuple[tuple[str, tuple[str, ...], float, float], ...] = (
    # The faster of a peer's variants counts. Cold and warm.
    ("Run:ai", ("runai",), 1.1, 3.0),
    ("FlashPack, parallel", ("flashpack-parallel",), 1.5, 3.0),
    ("fastsafetensors", _FASTSAFETENSORS, 2.0, 5.0),
    ("tensorizer", ("tensorizer", "tensorizer-4"), 1.5, 4.0),
    ("safetensors pread", ("safetensors-pread",), 2.8, 5.0),
    ("diffusers from_pretrained", ("diffusers", "diffusers-parallel"), 4.0, 3.8),
)


def targets(
    rows: Results, *, device: str, model: str, full_size: bool, tensors: int
) -> list[Target]:
    if device == "cuda":
        return [*_gpu(rows, model, full_size), *_ahead(rows, ("disk", "page-cache"))]
    return [*_cpu(rows, tensors), *_ahead(rows, ("disk", "page-cache"))]


def _cpu(rows: Results, tensors: int) -> list[Target]:
    binding = _number(rows, "quickthaw/pinned", "phases", "bind")
    found = [
        Target(
            "disk, hashed: share of the O_DIRECT floor",
            0.95,
            _number(rows, "quickthaw/disk", "share_of_floor", "p50"),
        ),
        Target(
            "page cache, hashed: share of a memory copy",
            0.6,
            _number(rows, "quickthaw/page-cache", "share_of_memory_copy", "p50"),
        ),
        Target(
            "disk, before hashing: CPU-seconds a GB",
            0.02,
            _number(rows, "quickthaw-unverified/disk", "cpu_seconds_per_gigabyte", "p50"),
            at_least=False,
            unit="s",
        ),
        Target(
            "binding: microseconds a tensor",
            2.0,
            None if binding is None else binding * 1e6 / tensors,
            at_least=False,
            unit="µs",
        ),
    ]
    for title, names, cold, warm in _CPU_PEERS:
        for start, wanted in (("disk", cold), ("page-cache", warm)):
            words = start.replace("-", " ")
            found.append(
                Target(f"{words}: times faster than {title}", wanted, _closest(rows, names, start))
            )
    return found


def _gpu(rows: Results, model: str, full_size: bool) -> list[Target]:
    seconds = _number(rows, "quickthaw/pinned", "seconds", "p50") if full_size else None
    found = [
        Target(
            "pinned: share of the host-to-device ceiling",
            0.95,
            _number(rows, "quickthaw/pinned", "share_of_floor", "p50"),
        )
    ]
    for name, title, wanted in (("sdxl", "SDXL", 0.2), ("flux", "Flux bf16 with T5", 0.75)):
        if model == name:
            found.append(
                Target(f"pinned: {title}, seconds", wanted, seconds, at_least=False, unit="s")
            )
    return found


def _ahead(rows: Results, starts: Sequence[str]) -> list[Target]:
    """No peer in front, not even of the load that takes its memory inside the timing."""
    found: list[Target] = []
    for start in starts:
        for lane, title in (("times_quickthaw", ""), ("times_fresh_slab", ", with a fresh slab")):
            ratios = [
                float(line[lane]["p50"])
                for line in rows.values()
                if line["start"] == start and lane in line and _is_peer(line)
            ]
            words = start.replace("-", " ")
            found.append(
                Target(
                    f"{words}{title}: times faster than the fastest peer",
                    1.0,
                    min(ratios) if ratios else None,
                )
            )
    return found


def _is_peer(line: Mapping[str, Any]) -> bool:
    return not str(line["lane"]).startswith(("quickthaw", "floors"))


def _closest(rows: Results, names: Sequence[str], start: str) -> float | None:
    ratios = [
        ratio
        for name in names
        if (ratio := _number(rows, f"{name}/{start}", "times_quickthaw", "p50")) is not None
    ]
    return min(ratios) if ratios else None


def _number(rows: Results, key: str, *path: str) -> float | None:
    value: Any = rows.get(key)
    for name in path:
        if value is None:
            return None
        value = value.get(name)
    return None if value is None else float(value)
