"""What loads take of the host, seen from outside of Python: memory, descriptors, threads.

    python -m support.host_memory STORE DIGEST

loads one snapshot in a process of its own, in every way, and prints what each took, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore, Tier

MIB = 1 << 20
SLACK_BYTES = 64 * MIB
"""What a load may need of the host beside the slab, and the device's memory where that is the
host's own."""
STAGING_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class Levels:
    """`private_bytes`: anonymous and shared memory, without the pages of files that are mapped."""

    private_bytes: int
    descriptors: int
    threads: int
    modules: int
    tensors: int

    @classmethod
    def now(cls) -> Levels:
        for _ in range(3):  # finalizers make more garbage
            gc.collect()
        kinds = [type(each) for each in gc.get_objects()]
        return cls(
            private_bytes=private_bytes(),
            descriptors=len(os.listdir("/proc/self/fd")),
            threads=threading.active_count(),
            modules=sum(issubclass(kind, torch.nn.Module) for kind in kinds),
            tensors=sum(issubclass(kind, torch.Tensor) for kind in kinds),
        )


def private_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024


class Peak:
    """The most private memory while it runs, by looking every millisecond. A context manager."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while True:
            self.nbytes = max(self.nbytes, private_bytes())
            if self._stop.wait(0.001):
                return

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def cycles(loader: Loader, digests: list[str], count: int, on_cycle: Callable[[int], None]) -> None:
    """Loads and evicts each model in turn, from disk and from the slab by turns."""
    for index in range(count):
        digest = digests[index % len(digests)]
        with loader.load(digest):
            pass
        for component, place in loader.residency().items():
            # In this order: on a CPU a component in VRAM has no pinned place of its own.
            for tier in (Tier.VRAM,) if index % 4 else (Tier.VRAM, Tier.PINNED):
                if tier in place.tiers:
                    loader.evict(component, tier)
        on_cycle(index + 1)


def forget_pages(root: Path) -> None:
    """Drops the files from the page cache, as far as the filesystem does that."""
    for path in root.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one_load(root: Path, digest: str, *, streaming: bool, cold: bool) -> dict[str, object]:
    store = SnapshotStore(root)
    nbytes = store.open(digest).manifest.weight_bytes
    size = STAGING_BYTES + (0 if streaming else nbytes + 4 * MIB)
    slab = Slab(size, staging_bytes=STAGING_BYTES, touch_threads=1)
    device = CpuDevice(nbytes + 16 * MIB)
    loader = Loader(store, device, slab, readers=4, retain_pinned=not streaming)
    loader.prepare(digest)
    if cold:
        forget_pages(root)
    before = private_bytes()
    with Peak() as peak, loader.load(digest) as model:
        copiers = sorted({part.copier or "" for part in model.report.components})
        total = sum(float(each.sum()) for each in model.pipeline.text_encoder.parameters())
    loader.close()
    slab.close()
    return {
        "nbytes": nbytes,
        "slab_bytes": size,
        "grown_bytes": peak.nbytes - before,
        "copiers": copiers,
        "checksum": total,
        "levels": asdict(Levels.now()),
    }


def main() -> None:
    root, digest = sys.argv[1:]
    torch.set_num_threads(1)
    one_load(Path(root), digest, streaming=False, cold=False)  # imports, and caches of libraries
    found = {
        f"{kind}-{cache}": one_load(
            Path(root), digest, streaming=kind == "streaming", cold=cache == "cold"
        )
        for kind in ("resident", "streaming")
        for cache in ("cold", "warm")
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
