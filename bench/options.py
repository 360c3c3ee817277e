"""What eight-bit weights and compiled blocks cost and save, on a CPU.

    python -m bench.options [--rounds 3] [--pictures 4] [--folder DIR]

Two models: `shapes`, which comes with the repository and is trained, and a Flux of 71 million
parameters with random weights in bfloat16. Everything runs with one thread.

*Weights*: each model as it is, in fp8 and in int8 (denoiser and text encoders). Cold loads take
turns, with the files dropped from the page cache, every block checked. Errors are those of the
denoiser's answer to the same input, as a share of the original answer's largest, and of the
picture, which is in 0..1. Run time is that of one whole picture.

*Code*: the first picture in a new process whose weights are resident, and the time a picture takes
from then on, for: eager; blocks compiled ahead by `snapshot compile`, at the size that was asked
for and at another. Seconds are of the processor, which a busy machine does not change much.
`bench.options_caches` compares with torch.compile and its caches.

All of it takes under ten minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.modest_flux import modest_flux
from bench.options_start import MIB, pictures
from bench.support import RESULTS, record

from quickthaw.cli.bench import page_cache
from quickthaw.snapshot import CpuDevice, Kind, LoadedModel, Loader, Slab, SnapshotStore, Tier
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.quantize import METHODS

SHAPES = Path(__file__).parents[1] / "models" / "shapes" / "snapshot"
ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    size: int
    other_size: int
    """That nothing is compiled for."""
    steps: int

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        if self.name != "shapes":
            yield modest_flux()
            return
        store = SnapshotStore(SHAPES)
        (digest,) = store
        nbytes = store.open(digest).manifest.weight_bytes
        with a_loader(store, nbytes) as loader, loader.load(digest) as loaded:
            yield loaded.pipeline


@contextmanager
def a_loader(store: SnapshotStore, weight_bytes: int) -> Iterator[Loader]:
    device = CpuDevice(weight_bytes + 256 * MIB)
    slab = Slab(64 * MIB, device=device, staging_bytes=32 * MIB)
    loader = Loader(store, device, slab, retain_pinned=False)
    try:
        yield loader
    finally:
        loader.close()
        slab.close()


class Packed:
    """One model in a store of its own, as it is and in eight bits."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.model = model
        self.store = SnapshotStore(folder)
        with model.pipeline() as pipeline:
            self.digests = {ORIGINAL: pack(pipeline, self.store)}
            for method in METHODS:
                self.digests[method] = pack(pipeline, self.store, quantize=method)

    def nbytes(self, name: str) -> int:
        return self.store.open(self.digests[name]).manifest.weight_bytes

    def files(self, name: str) -> list[Path]:
        parts = self.store.open(self.digests[name]).manifest.components
        return [self.store.component_path(part.digest) for part in parts]


def measure_weights(packed: Packed, loader: Loader, rounds: int) -> dict[str, object]:
    loads: dict[str, list[float]] = {name: [] for name in packed.digests}
    runs: dict[str, list[float]] = {name: [] for name in packed.digests}
    cpu_runs: dict[str, list[float]] = {name: [] for name in packed.digests}
    answers: dict[str, torch.Tensor] = {}
    drawn: dict[str, torch.Tensor] = {}
    for number in range(rounds + 1):
        names = list(packed.digests)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            manifest = packed.store.open(packed.digests[name]).manifest
            for part in manifest.components:
                loader.evict(part.digest, Tier.VRAM)
            page_cache.drop(packed.files(name))
            began = time.perf_counter()
            with loader.load(packed.digests[name]) as loaded:
                loaded_at, cpu_began = time.perf_counter(), time.process_time()
                picture = pictures(loaded, packed.model.size, packed.model.steps)
                ended, cpu_ended = time.perf_counter(), time.process_time()
                if number == 0:  # warms code paths, and is not counted
                    drawn[name], answers[name] = picture, answer(loaded, packed.model)
                    continue
            loads[name].append(loaded_at - began)
            runs[name].append(ended - loaded_at)
            cpu_runs[name].append(cpu_ended - cpu_began)
    lines: dict[str, object] = {}
    for name in packed.digests:
        lines[name] = {
            "megabytes": round(packed.nbytes(name) / 1e6, 2),
            "cold_load_seconds": _spread(loads[name]),
            "picture_seconds": _spread(runs[name]),
            "picture_cpu_seconds": _spread(cpu_runs[name]),
            "denoiser_error": _error(answers[name], answers[ORIGINAL], relative=True),
            "picture_error": _error(drawn[name], drawn[ORIGINAL], relative=False),
        }
    return lines


def answer(loaded: LoadedModel, model: Model) -> torch.Tensor:
    """What the denoiser says to the first step's input, which does not depend on its weights."""
    (part,) = (each for each in loaded.manifest.modules if each.kind is Kind.DENOISER)
    module = getattr(loaded.pipeline, part.name)
    seen: list[torch.Tensor] = []

    def note(_module: object, _arguments: object, result: Any) -> None:
        seen.append(result[0] if isinstance(result, tuple) else result.sample)

    handle = module.register_forward_hook(note)
    try:
        pictures(loaded, model.size, 1)
    finally:
        handle.remove()
    return seen[0].float().clone()


def _error(found: torch.Tensor, wanted: torch.Tensor, *, relative: bool) -> dict[str, float]:
    difference = (found.float() - wanted.float()).abs()
    scale = wanted.float().abs().max().item() if relative else 1.0
    return {
        "max": float(f"{difference.max().item() / scale:.3g}"),
        "mean": float(f"{difference.mean().item() / scale:.3g}"),
    }


def measure_code(packed: Packed, count: int, folder: Path) -> dict[str, object]:
    cache = folder / "compiled"
    size = packed.model.size
    built = _process(
        "quickthaw.worker.compile",
        *("--snapshot-store", str(packed.store.root), "--digest", packed.digests[ORIGINAL]),
        *("--compiled-cache", str(cache), "--torch-threads", "1", "--shape", f"{size}x{size}"),
    )
    other = packed.model.other_size
    ways = [
        ("eager", "eager", size),
        ("blocks compiled ahead", "blocks", size),
        ("eager, another size", "eager", other),
        ("blocks compiled ahead, another size", "blocks", other),
    ]
    told = ("compiled", "seconds", "problems")
    lines: dict[str, object] = {"compile_ahead": {name: built[name] for name in told}}
    wanted: dict[int, torch.Tensor] = {}
    for name, how, at in ways:
        output = folder / "picture"
        line = _process(
            "bench.options_start",
            *(str(packed.store.root), packed.digests[ORIGINAL], how, str(cache)),
            *(str(at), str(packed.model.steps), str(count), str(output)),
        )
        picture = torch.from_numpy(np.frombuffer(output.read_bytes(), np.float32).copy())
        lines[name] = {
            "first_picture_seconds": round(line["seconds"][0], 3),
            "first_picture_cpu_seconds": round(line["cpu_seconds"][0], 3),
            "later_picture_seconds": _spread(line["seconds"][1:]),
            "later_cpu_seconds": _spread(line["cpu_seconds"][1:]),
            "picture_error": _error(picture, wanted.setdefault(at, picture), relative=False),
            "compiled": line["compiled"],
        }
        print(f"{packed.model.name}, {name}: {lines[name]}", file=sys.stderr, flush=True)
    return lines


def _process(module: str, *arguments: str) -> Any:
    """Its last line, which is JSON."""
    command: Sequence[str] = (sys.executable, "-m", module, *arguments)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where files go; its disk is measured")
    parser.add_argument("--only", choices=("shapes", "flux"), help="one of the models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = [Model("shapes", 64, 96, 20), Model("flux", 256, 384, 4)]
    results: dict[str, object] = {}
    for model in models:
        if arguments.only not in (None, model.name):
            continue
        folder = Path(tempfile.mkdtemp(prefix="quickthaw-bench-", dir=arguments.folder))
        try:
            packed = Packed(model, folder / "store")
            with a_loader(packed.store, sum(map(packed.nbytes, packed.digests))) as loader:
                weights = measure_weights(packed, loader, arguments.rounds)
            code = measure_code(packed, arguments.pictures, folder)
            results[model.name] = {"weights": weights, "code": code}
        finally:
            shutil.rmtree(folder)
    parameters = {
        "rounds": arguments.rounds,
        "pictures": arguments.pictures,
        "threads": 1,
        "torch": torch.__version__,
        "sizes": {model.name: [model.size, model.other_size, model.steps] for model in models},
        "seed": 1,
        "device": "cpu",
    }
    record("options", parameters, results, arguments.results)


if __name__ == "__main__":
    main()
