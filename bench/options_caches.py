"""What torch.compile's own caches save to the first picture, beside code compiled ahead, on a CPU.

    python -m bench.options_caches [--only sd,wan]

For tiny models whose blocks are compiled as `compile_repeated_blocks` does, each way in a process
of its own:

- `compiled`: with nothing. It leaves its cache folder, and all that the compiler itself calls its
  artifacts (`torch.compiler.save_cache_artifacts`) in one piece.
- `brought`: with nothing but that piece (`load_cache_artifacts`).
- `kept`: with the whole cache folder, so with the libraries and probes that are no artifacts.
- `traced`: with the folder, the check for vector instructions spared, and the traced code itself
  (`aot_compile`, one for each class of blocks): the most that torch 2.13 can keep.
- `ahead`: with code that AOTInductor made, as `--compiled use` runs it.

Seconds are of the processor, which a busy machine does not change much: of importing the compiler,
of reading in, and of making something for the first time (in the process itself, and in the C++
compiler and other children) and again. `bench.options` measures the same of larger models.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.support import RESULTS, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
NAMES = ("sd", "wan")
WAYS = ("compiled", "brought", "kept", "traced", "ahead")
TRACING = "tracing"
"""Makes what `traced` lives on; its seconds are not told."""
PIECE = "artifacts.bin"


class Watch:
    """Seconds of the processor: this process's, and its children's that have ended."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def __call__(self, what: str, do: Callable[[], Any]) -> Any:
        began = self._used()
        result = do()
        own, children = (now - then for now, then in zip(self._used(), began, strict=True))
        self.found[f"{what}_seconds"] = round(own, 3)
        self.found[f"{what}_children_seconds"] = round(children, 3)
        return result

    def _used(self) -> list[float]:
        used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return [each.ru_utime + each.ru_stime for each in used]


def child(name: str, how: str, folder: Path) -> dict[str, float]:
    caches = {"kept": "compiled", "traced": TRACING}
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / caches.get(how, how))
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # others would not be counted
    import torch

    from support.other_models import make, tiny_wan
    from support.snapshots import draw
    from support.tiny_models import tiny_sd

    warnings.simplefilter("ignore")  # diffusers and numpy, about each other
    torch.set_num_threads(1)
    builders: Mapping[str, Callable[[int], Any]] = {"sd": tiny_sd, "wan": tiny_wan}
    work = draw if name == "sd" else make
    watch = Watch()
    with torch.inference_mode(), ExitStack() as stack:
        pipeline = builders[name](0)
        wanted = work(pipeline)
        watch("uncompiled", lambda: work(pipeline))
        if how == "ahead":
            made = watch("first", stack.enter_context(_ahead(pipeline, work, folder)))
        else:
            watch("import", _import)
            prepare = {TRACING: _trace, "traced": _bring_traced, "brought": _bring}.get(how)
            if prepare is not None:
                watch("bring", lambda: prepare(pipeline, work, folder))
            if how not in (TRACING, "traced"):
                for block in _blocks(pipeline):
                    block.compile(fullgraph=True)
            made = watch("first", lambda: work(pipeline))
        watch("later", lambda: work(pipeline))
    if how == "compiled":
        saved = torch.compiler.save_cache_artifacts()
        assert saved is not None, "a compiler that ran has something to keep"
        (folder / PIECE).write_bytes(saved[0])
    return {**watch.found, "difference": float(f"{(made - wanted).abs().max().item():.3g}")}


def _import() -> None:
    importlib.import_module("torch._inductor.compile_fx")


def _blocks(pipeline: Any) -> list[Any]:
    from quickthaw.snapshot.compiled.blocks_of import repeated_blocks

    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    return [block for _, block in repeated_blocks(denoiser)]


def _bring(_pipeline: Any, _work: Callable[[Any], Any], folder: Path) -> None:
    import torch

    if torch.compiler.load_cache_artifacts((folder / PIECE).read_bytes()) is None:
        raise RuntimeError("the compiler did not take its own artifacts")


def _trace(pipeline: Any, work: Callable[[Any], Any], folder: Path) -> None:
    """Compiles one function of each class of blocks, which takes the block as an argument."""
    import torch

    compile_: Any = torch.compile
    calls: dict[type, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(type(block), ((block, *args), kwargs))

    handles = [
        block.register_forward_pre_hook(note, with_kwargs=True) for block in _blocks(pipeline)
    ]
    work(pipeline)
    for handle in handles:
        handle.remove()
    _trust_the_processor()
    for kind, call in calls.items():
        options = {"guard_filter_fn": lambda guards: [False for _ in guards]}
        traced = compile_(_forward(kind), fullgraph=True, options=options).aot_compile(call)
        traced.save_compiled_function(str(folder / kind.__name__))


def _bring_traced(pipeline: Any, _work: Callable[[Any], Any], folder: Path) -> None:
    import torch

    _trust_the_processor()
    read: dict[type, Any] = {}
    for block in _blocks(pipeline):
        if (kind := type(block)) not in read:
            with (folder / kind.__name__).open("rb") as file:
                read[kind] = torch.compiler.load_compiled_function(file)
            read[kind].disable_guard_check()
        block.forward = functools.partial(read[kind], block)


def _forward(kind: Any) -> Callable[..., Any]:
    forward: Callable[..., Any] = inspect.unwrap(kind.forward)
    return forward


def _trust_the_processor() -> None:
    """Without a C++ program for each of its instruction sets, compiled and run."""
    import torch._inductor.config

    torch._inductor.config.cpp.vec_isa_ok = True


@contextmanager
def _ahead(pipeline: Any, work: Callable[[Any], Any], folder: Path) -> Iterator[Callable[[], Any]]:
    """Like `work`, with code that is there."""
    import torch

    from quickthaw.snapshot import SnapshotStore
    from quickthaw.snapshot.compiled import build_missing
    from quickthaw.snapshot.pack import pack
    from quickthaw.worker.compiling import CompiledMetrics, CompiledMode, CompiledRuns, place_of
    from support.snapshots import a_loader

    cpu, store = torch.device("cpu"), SnapshotStore(folder / "store")
    digest, place = pack(pipeline, store), place_of(folder / "code", cpu)

    def runs() -> CompiledRuns:
        return CompiledRuns(CompiledMode.USE, place, cpu, store.root, CompiledMetrics())

    with a_loader(store) as loader, loader.load(digest) as loaded:

        def made() -> Any:
            with opened.running(loaded) as usage:
                found = work(loaded.pipeline)
            missing[:] = usage.missing
            return found

        missing: list[Any] = []
        opened = runs()
        made()
        build_missing(place, store.root, digest, missing)
        opened = runs()
        yield made


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
            # In this order: some live on what others leave.
            found = {how: _in_a_process(name, how, folder) for how in (TRACING, *WAYS)}
        results[name] = {how: found[how] for how in WAYS}
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
