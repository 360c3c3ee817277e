"""What torch.compile's own caches save to the first picture, beside code compiled ahead, on a CPU.

    python -m bench.options_caches [--only sd,wan]

For tiny models whose blocks are compiled as `compile_repeated_blocks` does. One process compiles
them and keeps all that the compiler makes (`torch.compiler.save_cache_artifacts`); the next, which
has nothing else, is given that (`load_cache_artifacts`) and makes the same. Seconds are of the
processor, of each process and its C++ compilers, which a busy machine does not change much: those
of importing the compiler, of reading the artifacts in, and of making something for the first time
and again. `bench.options` measures the same of larger models, beside code that was compiled ahead.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.support import RESULTS, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
NAMES = ("sd", "wan")
PIECE = "artifacts.bin"


def child(name: str, how: str, folder: Path) -> dict[str, float]:
    # In this process, so that its time is counted.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / how)
    import torch

    from quickthaw.snapshot.compiled.blocks_of import repeated_blocks
    from support.other_models import make, tiny_wan
    from support.snapshots import draw
    from support.tiny_models import tiny_sd

    warnings.simplefilter("ignore")  # diffusers and numpy, about each other
    torch.set_num_threads(1)
    builders: Mapping[str, Callable[[int], Any]] = {"sd": tiny_sd, "wan": tiny_wan}
    pipeline = builders[name](0)
    work = draw if name == "sd" else make
    found: dict[str, float] = {}

    def timed(what: str, do: Callable[[], Any]) -> Any:
        began = _cpu_seconds()
        result = do()
        found[what] = round(_cpu_seconds() - began, 3)
        return result

    with torch.inference_mode():
        wanted = work(pipeline)
        timed("uncompiled_seconds", lambda: work(pipeline))
        timed("import_seconds", lambda: __import__("torch._inductor.compile_fx"))
        if how == "brought":
            content = (folder / PIECE).read_bytes()
            found["megabytes"] = round(len(content) / 1e6, 3)
            timed("bring_seconds", lambda: torch.compiler.load_cache_artifacts(content))
        denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
        for _, block in repeated_blocks(denoiser):
            block.compile(fullgraph=True)
        made = timed("first_seconds", lambda: work(pipeline))
        # That the artifacts were taken, and that their price is not that of a miss.
        counted = torch._dynamo.utils.counters["inductor"]
        found["cache_hits"] = counted["fxgraph_cache_hit"]
        found["cache_misses"] = counted["fxgraph_cache_miss"]
        timed("later_seconds", lambda: work(pipeline))
    found["difference"] = float(f"{(made - wanted).abs().max().item():.3g}")
    if how == "compiled":
        saved = torch.compiler.save_cache_artifacts()
        assert saved is not None, "a compiler that ran has something to keep"
        (folder / PIECE).write_bytes(saved[0])
    return found


def _cpu_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, how, folder = given.child
        print(json.dumps(child(name, how, Path(folder))))
        return
    results: dict[str, object] = {}
    for name in given.only.split(",") if given.only else NAMES:
        with tempfile.TemporaryDirectory(prefix="quickthaw-bench-") as folder:
            # In this order: the second lives on what the first leaves.
            results[name] = {
                how: _in_a_process(name, how, folder) for how in ("compiled", "brought")
            }
        print(f"{name}: {results[name]}", file=sys.stderr, flush=True)
    parameters = {"torch": version("torch"), "threads": 1, "steps": 2, "seed": 7, "device": "cpu"}
    record("options_caches", parameters, results, given.results)


def _in_a_process(name: str, how: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.options_caches", "--child", name, how, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
