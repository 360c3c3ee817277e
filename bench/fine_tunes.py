"""A fine-tune as a delta: what it stores, and what loading it takes beside loading it whole.

The model has SDXL's structure; a share of the UNet's tensors is changed. Each round loads the
fine-tune as a delta with its base in memory, as a delta without, and from a full file, in another
order each time: with everything in the page cache, then with nothing. All tensors are compared in
every load.

python -m bench.fine_tunes [--size-gb 1] [--changed 0.1] [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench.support import record
from bench.synthetic import sdxl_like

from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore, Tier
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.report import ComponentReport


@dataclass(frozen=True, slots=True)
class Subject:
    """The same fine-tune, stored in both ways beside its base."""

    base: str
    over_base: str
    in_full: str
    deltas: SnapshotStore
    full: SnapshotStore
    expected: dict[str, torch.Tensor]


def tune(unet: Any, share: float, seed: int) -> int:
    """Changes that share of the tensors; returns how many."""
    state = unet.state_dict()
    names = random.Random(seed).sample(sorted(state), max(1, int(share * len(state))))
    with torch.no_grad():
        for name in names:
            state[name] += 0.125
    return len(names)


def same_tensors(module: Any, expected: Mapping[str, torch.Tensor]) -> bool:
    found = module.state_dict()
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def once(loader: Loader, digest: str, subject: Subject) -> tuple[float, ComponentReport]:
    """Loads the fine-tune, checks its UNet, and lets everything of it go again."""
    began = time.perf_counter()
    model = loader.load(digest)
    took = time.perf_counter() - began
    if not same_tensors(model.pipeline.unet, subject.expected):
        raise AssertionError("a tensor differs")
    part = next(part for part in model.report.components if part.name == "unet")
    unet = model.manifest.component("unet").digest
    model.release()
    loader.evict(unet, Tier.VRAM)
    loader.evict(unet, Tier.PINNED)
    return took, part


def drop_base(loader: Loader, subject: Subject) -> None:
    """Takes the UNet's base out of memory; text encoders and VAE stay."""
    base = loader.open(subject.base).manifest.component("unet").digest
    for tier in (Tier.VRAM, Tier.PINNED):
        loader.evict(base, tier)


def forget(*stores: SnapshotStore) -> None:
    """Drops the stores' weights from the page cache; they are durable, so nothing keeps them."""
    for store in stores:
        for path in store.root.glob("*/*.safetensors"):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(subject: Subject, rounds: int) -> dict[str, object]:
    weights = subject.deltas.open(subject.base).manifest.weight_bytes
    room = 4 * weights + (256 << 20)

    def a_loader(store: SnapshotStore) -> Loader:
        return Loader(store, CpuDevice(room), Slab(room, staging_bytes=64 << 20))

    loaders = {name: a_loader(getattr(subject, name)) for name in ("deltas", "full")}
    shared = [loader.load(subject.base) for loader in loaders.values()]
    for model in shared:
        model.release()  # what it brought stays resident until it is evicted

    methods: dict[str, Callable[[], tuple[float, ComponentReport]]] = {
        "delta_over_resident_base": lambda: once(loaders["deltas"], subject.over_base, subject),
        "delta_from_files": lambda: once(loaders["deltas"], subject.over_base, subject),
        "full_file": lambda: once(loaders["full"], subject.in_full, subject),
    }

    def ready(name: str, *, cold: bool) -> None:
        """The base in memory or not, the files in the page cache or not."""
        if name == "delta_over_resident_base":
            loaders["deltas"].load(subject.base).release()
        elif name == "delta_from_files":
            drop_base(loaders["deltas"], subject)
        if cold:
            forget(subject.deltas, subject.full)

    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    read: dict[str, int] = {}
    order = list(methods)
    for number in range(rounds + 1):
        for cold in (False, True):
            random.Random(number).shuffle(order)
            for name in order:
                ready(name, cold=cold)
                took, part = methods[name]()
                read[name] = part.read_bytes
                if number:  # the first round warms everything
                    key = "cold_load_ms" if cold else "page_cache_load_ms"
                    seconds[name].setdefault(key, []).append(took * 1e3)
    for loader in loaders.values():
        loader.close()
    return {
        name: {
            **{key: statistics.median(values) for key, values in each.items()},
            "unet_read_bytes": read[name],
        }
        for name, each in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=1.0)
    parser.add_argument("--changed", type=float, default=0.1, help="share of the UNet's tensors")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
        pipeline = sdxl_like(int(settings.size_gb * 1e9))
        deltas, full = (SnapshotStore(Path(folder) / name) for name in ("deltas", "full"))
        base = pack(pipeline, deltas)
        full.import_(deltas.root, base)
        changed = tune(pipeline.unet, settings.changed, settings.seed)
        tuned = pack(pipeline, deltas, base=base)
        manifest = deltas.open(tuned).manifest
        whole = pack(pipeline, full)
        expected = {name: each.clone() for name, each in pipeline.unet.state_dict().items()}
        subject = Subject(base, tuned, whole, deltas, full, expected)
        unet = manifest.component("unet")
        results = measure(subject, settings.rounds)
    record(
        "fine_tunes",
        vars(settings),
        {
            "unet_bytes": unet.data_bytes,
            "delta_bytes": 0 if unet.delta is None else unet.delta.layers[-1].file_bytes,
            "changed_tensors": changed,
            **results,
        },
    )


if __name__ == "__main__":
    main()
