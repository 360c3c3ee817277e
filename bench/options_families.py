"""Which families' blocks AOTInductor compiles, and how near the compiled ones are, on a CPU.

    python -m bench.options_families [--only svd,audio]

Tiny models of every family, with random weights. Each makes something in two steps, which says in
what forms its denoiser's blocks are called; for each form code is made, and what is made then is
compared with what was made without. Minutes of it are the C++ compiler's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from bench.support import RESULTS, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from quickthaw.snapshot import Kind, LoadedModel, SnapshotStore
from quickthaw.snapshot.compiled import BuildOutcome, Usage, build_missing
from quickthaw.snapshot.pack import pack
from quickthaw.worker.compiling import CompiledMetrics, CompiledMode, CompiledRuns, place_of
from support.other_models import make, tiny_audio, tiny_ltx, tiny_sd3, tiny_svd, tiny_wan
from support.snapshots import a_loader, draw
from support.tiny_models import tiny_flux, tiny_sd, tiny_sdxl

CPU = torch.device("cpu")
ROUNDS_MAX = 3
"""Compiled blocks may hand on tensors of other strides than they did uncompiled."""
PICTURES: Mapping[str, Callable[[int], Any]] = {"sd": tiny_sd, "sdxl": tiny_sdxl, "flux": tiny_flux}
OTHERS: Mapping[str, Callable[[int], Any]] = {
    "sd3": tiny_sd3,
    "svd": tiny_svd,
    "wan": tiny_wan,
    "ltx": tiny_ltx,
    "audio": tiny_audio,
}


def measure(name: str, folder: Path) -> dict[str, object]:
    store = SnapshotStore(folder / "store")
    digest = pack({**PICTURES, **OTHERS}[name](0), store)
    place = place_of(folder / "compiled", CPU)
    runs = CompiledRuns(CompiledMode.USE, place, CPU, store.root, CompiledMetrics())
    with a_loader(store) as loader, loader.load(digest) as loaded:
        plain, usage = _made(name, loaded, runs)
        compiled, used = plain, usage
        began = time.perf_counter()
        outcomes: list[BuildOutcome] = []
        for _round in range(ROUNDS_MAX):
            outcomes += build_missing(place, store.root, digest, used.missing)
            runs.cache.generation += 1
            compiled, used = _made(name, loaded, runs)
            if not used.missing or any(each.problem for each in outcomes):
                break
        seconds = time.perf_counter() - began
        documents = [json.loads(each.read_text()) for each in place.folder.glob("*/*.json")]
        (denoiser,) = (each for each in loaded.manifest.modules if each.kind is Kind.DENOISER)
        found = type(getattr(loaded.pipeline, denoiser.name)).__name__
    runs.close()
    difference = (compiled - plain).abs().max().item()
    return {
        "class": found,
        "codes_wanted": len(outcomes),
        "codes_made": sum(not each.problem for each in outcomes),
        "codes_of_every_size": sum(each["sizes"] is not None for each in documents),
        "problems": sorted({each.problem for each in outcomes if each.problem}),
        "build_seconds": round(seconds, 1),
        "calls": used.compiled_calls + used.eager_calls,
        "compiled_calls": used.compiled_calls,
        "difference": float(f"{difference / (plain.abs().max().item() or 1.0):.3g}"),
    }


def _made(name: str, loaded: LoadedModel, runs: CompiledRuns) -> tuple[torch.Tensor, Usage]:
    work = draw if name in PICTURES else make
    with runs.running(loaded) as usage, torch.inference_mode():
        found = work(loaded.pipeline)
    return found.float().clone(), usage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # diffusers and numpy, about each other
    results: dict[str, object] = {}
    for name in given.only.split(",") if given.only else [*PICTURES, *OTHERS]:
        with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
            results[name] = measure(name, Path(folder))
        print(f"{name}: {results[name]}", file=sys.stderr, flush=True)
    parameters = {"torch": torch.__version__, "threads": 1, "steps": 2, "seed": 7, "device": "cpu"}
    record("options_families", parameters, results, given.results)


if __name__ == "__main__":
    main()
