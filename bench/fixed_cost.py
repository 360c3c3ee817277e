"""What a cold start costs beside moving bytes, for SDXL and Flux dev in full size.

    python -m bench.fixed_cost [--rounds 15] [--family sdxl|flux ...]

Everything is as in a worker but the weights: components have the real headers and a data section
of address space that nobody touches, and they are on the device before the clock starts. So what is
left of `Loader.load` is what all its work beside moving bytes costs. Three kinds of start take
turns: the same model again (its skeletons are prepared), a fine-tune never seen before (its
manifest is read, skeletons of the same shape are there), and a model whose skeletons must be built.
Garbage that exists before is frozen, as it is in a worker's parent. CPU seconds are of the calling
thread; on a busy machine they are the better figure.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from bench.full_size import MODELS, Bodiless, EmptyDevice
from bench.support import quantile, record

from quickthaw.snapshot import Loader, LoadReport, Slab, SnapshotStore, Tier
from quickthaw.snapshot.prepared import Prepared

PARTS = ("manifest", "skeleton", "tokenizer", "bind", "pipeline")

PREPARED_MS = 20.0
BUILT_MS = {"sdxl": 130.0, "flux": 90.0}
BIND_US = 2.0
"""What it is built to stay under: medians, on a machine that does nothing else."""


@dataclass(slots=True)
class Samples:
    """Milliseconds of each round of one kind of start."""

    wall: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    parts: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, report: LoadReport, wall_ms: float, cpu_ms: float) -> None:
        self.wall.append(wall_ms)
        self.cpu.append(cpu_ms)
        for name in PARTS:
            self.parts.setdefault(name, []).append(1e3 * getattr(report, f"{name}_seconds"))

    def summary(self, tensors: int) -> dict[str, object]:
        parts = {name: round(quantile(values, 0.5), 3) for name, values in self.parts.items()}
        return {
            "wall_ms": {
                "best": round(min(self.wall), 2),
                "p50": round(quantile(self.wall, 0.5), 2),
                "p90": round(quantile(self.wall, 0.9), 2),
            },
            "cpu_ms": {
                "best": round(min(self.cpu), 2),
                "p50": round(quantile(self.cpu, 0.5), 2),
            },
            "parts_p50_ms": parts,
            "bind_us_per_tensor": {
                "best": round(1e3 * min(self.parts["bind"]) / tensors, 3),
                "p50": round(1e3 * parts["bind"] / tensors, 3),
            },
        }


class Bench:
    """One family in one store, loaded again and again."""

    def __init__(self, family: str, root: Path, rounds: int) -> None:
        store = SnapshotStore(root)
        self.models = Bodiless(store)
        self.digest = self.models.add(family)
        # Their weights are known, so that they can be on the device before they are asked for.
        for number in range(rounds):
            self.models.fine_tune(self.digest, number, "known")
        self.tensors = self.models.tensors[family]
        self.prepared = Prepared(store)
        self.slab = Slab(64 << 20, staging_bytes=32 << 20, touch_threads=1)
        self.loader = Loader(
            store,
            EmptyDevice(),
            self.slab,
            prepared=self.prepared,
            origins=(self.models,),
            retain_pinned=False,
        )
        self.loader.prepare(self.digest)
        self.store = store

    def close(self) -> None:
        self.loader.close()
        self.slab.close()

    def measure(self, digest: str, samples: Samples, before: Callable[[], None]) -> None:
        """One load whose components are on the device, and whose modules are not bound."""
        parts = self.store.open(digest).manifest.components
        for part in parts:
            self.loader.evict(part.digest, Tier.VRAM)
        self._forget_the_rest()
        for part in parts:
            self.loader.promote(part.digest, Tier.VRAM, verify=False)
        before()
        wall, cpu = time.perf_counter(), time.thread_time()
        loaded = self.loader.load(digest, verify=False)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        samples.add(loaded.report, 1e3 * wall, 1e3 * cpu)
        assert not any(each.is_meta for each in loaded.pipeline.vae.parameters())
        loaded.release()

    def _forget_the_rest(self) -> None:
        for digest, line in self.loader.residency().items():
            if Tier.VRAM in line.tiers:
                self.loader.evict(digest, Tier.VRAM)


def measure(family: str, rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
        bench = Bench(family, Path(folder), rounds)
        kinds = {name: Samples() for name in ("prepared", "fine_tune", "built")}
        try:
            for _ in range(2):
                bench.measure(bench.digest, Samples(), _nothing)
            gc.collect()
            gc.freeze()
            for number in range(rounds):
                for name in _turned(list(kinds), number):
                    digest = bench.digest
                    if name == "fine_tune":
                        digest = bench.models.fine_tune(digest, number, "never seen")
                    before = bench.prepared.skeletons.clear if name == "built" else _nothing
                    bench.measure(digest, kinds[name], before)
        finally:
            gc.unfreeze()
            bench.close()
        return {
            "targets": targets(family, kinds, bench.tensors),
            "tensors": bench.tensors,
            "weight_bytes": bench.store.open(bench.digest).manifest.weight_bytes,
            **{name: samples.summary(bench.tensors) for name, samples in kinds.items()},
        }


def targets(family: str, kinds: dict[str, Samples], tensors: int) -> dict[str, object]:
    """Which of the limits were kept."""
    bind = 1e3 * quantile(kinds["prepared"].parts["bind"], 0.5) / tensors
    found = {
        "prepared_ms": (quantile(kinds["prepared"].wall, 0.5), PREPARED_MS),
        "fine_tune_ms": (quantile(kinds["fine_tune"].wall, 0.5), PREPARED_MS),
        "built_ms": (quantile(kinds["built"].wall, 0.5), BUILT_MS[family]),
        "bind_us_per_tensor": (bind, BIND_US),
    }
    return {
        name: {"p50": round(value, 2), "at_most": limit, "met": value <= limit}
        for name, (value, limit) in found.items()
    }


def _nothing() -> None:
    return


def _turned(names: list[str], by: int) -> Iterator[str]:
    for index in range(len(names)):
        yield names[(index + by) % len(names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--family", choices=tuple(MODELS), action="append")
    options = parser.parse_args()
    families: list[str] = options.family or list(MODELS)
    torch.set_num_threads(1)
    results = {family: measure(family, options.rounds) for family in families}
    record("fixed_cost", {"rounds": options.rounds, "families": families}, results)


if __name__ == "__main__":
    main()
