"""Compiles a model's blocks ahead of requests: `python -m quickthaw.worker.compile`.

The model is loaded and draws one step of each size asked for, exactly as a request would, to learn
in which forms its blocks are called; what there is no code for is then compiled. The last line on
stdout is a JSON object; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from quickthaw.snapshot import (
    CpuDevice,
    CudaDevice,
    Device,
    LoadedModel,
    Loader,
    Manifest,
    Slab,
    SnapshotStore,
)
from quickthaw.snapshot.compiled import BuildOutcome, Usage, build_missing
from quickthaw.snapshot.compiled.builder import check_compiler
from quickthaw.wire.errors import InvalidArgument, QuickthawError
from quickthaw.worker.compiling import CompiledMetrics, CompiledMode, CompiledRuns, place_of
from quickthaw.worker.drawing import draw
from quickthaw.worker.families import picture_adapter
from quickthaw.worker.imports import import_families
from quickthaw.worker.inputs import ImageInput, InputReader, image_input

_MIB = 1 << 20
_STAGING_BYTES = 32 * _MIB
_ROUNDS_MAX = 3
"""And one for each size: compiled blocks may hand on tensors of other strides than they did
uncompiled, and of what is missing for several sizes one is told, which mostly serves them all."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a picture, and how many at once."""

    width: int
    height: int
    images: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """`1024x768` or, four at once, `1024x768x4`. Raises InvalidArgument."""
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})(?:x(\d{1,3}))?", text.strip())
        if match is None:
            raise InvalidArgument(f"shape {text!r:.40} must be WIDTHxHEIGHT or WIDTHxHEIGHTxIMAGES")
        return cls(int(match[1]), int(match[2]), int(match[3] or 1))


class _Silence:
    """Nobody watches these runs."""

    def progress(self, step: int, steps: int) -> None: ...

    def preview(
        self, step: int, image_index: int, content_type: str, data: bytes, size: tuple[int, int]
    ) -> None: ...

    def log(self, level: str, text: str) -> None: ...


class _Never:
    """Nor does anybody stop them."""

    def is_set(self) -> bool:
        return False

    async def wait(self) -> object:
        return await asyncio.Event().wait()


def compile_model(
    store: SnapshotStore, digest: str, device: Device, cache: Path, sizes: Sequence[Size]
) -> list[BuildOutcome]:
    """Compiles what is missing for these sizes (the model's own default if there are none).

    Raises FailedPrecondition without a compiler, InvalidInput for a size that the model does not
    draw, and what loading raises.
    """
    check_compiler()
    place = place_of(cache, device.torch_device)
    runs = CompiledRuns(CompiledMode.USE, place, device.torch_device, store.root, CompiledMetrics())
    outcomes: list[BuildOutcome] = []
    slab = Slab(_STAGING_BYTES + _MIB, device=device, staging_bytes=_STAGING_BYTES)
    with (
        closing(slab),
        closing(Loader(store, device, slab, retain_pinned=False)) as loader,
        loader.load(digest) as loaded,
    ):
        for _round in range(_ROUNDS_MAX + len(sizes)):
            hopeless = {(each.component, each.block) for each in outcomes if each.problem}
            missing = [
                each
                for each in _tried(loaded, runs, sizes).missing
                if (each.component, each.block) not in hopeless
            ]
            if not missing:
                break
            outcomes += build_missing(place, store.root, digest, missing, _say)
            runs.cache.generation += 1
    return outcomes


def _tried(loaded: LoadedModel, runs: CompiledRuns, sizes: Sequence[Size]) -> Usage:
    family = picture_adapter(loaded.manifest.family)
    reader = InputReader(loaded.manifest.input_schema, image_input)
    total = Usage()
    for size in sizes or (None,):
        given: dict[str, object] = {"prompt": "a picture", "num_inference_steps": 1, "seed": 0}
        if size is not None:
            given["image_size"] = {"width": size.width, "height": size.height}
            given["num_images"] = size.images
        request = reader.read(json.dumps(given))
        assert isinstance(request, ImageInput)
        with runs.running(loaded) as usage:
            draw(loaded.pipeline, family, request, None, _Silence(), _Never())
        total.add(usage)
    return total


def _say(outcome: BuildOutcome) -> None:
    told = outcome.problem or f"compiled {outcome.component}.{outcome.block}"
    print(f"{told} ({outcome.seconds:.0f} s)", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quickthaw-worker-compile", allow_abbrev=False)
    add = parser.add_argument
    add("--snapshot-store", type=Path, required=True)
    add("--digest", required=True)
    add("--compiled-cache", type=Path, required=True)
    add("--device", default="cpu")
    add("--torch-threads", type=int, default=0)
    add("--shape", action="append", default=[])
    return parser


def _device(named: str, manifest: Manifest) -> Device:
    """Raises InvalidArgument, and SettingsInvalid for a GPU that is not there."""
    if (found := re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", named)) is None:
        raise InvalidArgument(f"--device {named!r:.40} must be cpu, cuda or cuda:N")
    if named == "cpu":
        return CpuDevice(manifest.weight_bytes + (64 + len(manifest.components)) * _MIB)
    return CudaDevice(int(found[1] or 0))


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(list(arguments))
    try:
        if given.torch_threads:
            torch.set_num_threads(given.torch_threads)
        store = SnapshotStore(given.snapshot_store)
        manifest = store.open(given.digest).manifest
        for _part in import_families((manifest.family,)):
            continue
        device = _device(given.device, manifest)
        sizes = [Size.parse(text) for text in given.shape]
        outcomes = compile_model(store, given.digest, device, given.compiled_cache, sizes)
    except (QuickthawError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    failed = [outcome for outcome in outcomes if outcome.problem]
    told = {
        "digest": given.digest,
        "cache": str(given.compiled_cache),
        "compiled": len(outcomes) - len(failed),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "problems": [outcome.problem for outcome in failed],
    }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
