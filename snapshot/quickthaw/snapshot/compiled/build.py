"""Making compiled code: one block and one form of call at a time, without the model's weights.

A block is built from the component's config, given random weights of the right types, exported,
compiled by AOTInductor with its weights left out, and compared with itself uncompiled before it is
kept. This module imports the compiler, which takes seconds: it runs in a process of its own
(`python -m quickthaw.snapshot.compiled`).
"""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from quickthaw.snapshot.compiled.blocks import BoundCode, open_runner
from quickthaw.snapshot.compiled.blocks_of import digest_of, tensors_of
from quickthaw.snapshot.compiled.cache import Code, CompiledCache
from quickthaw.snapshot.compiled.calls import Example, Form, example, form_of, to_json
from quickthaw.snapshot.compiled.scratch import scratch_folder
from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.skeleton import build as build_skeleton
from quickthaw.snapshot.skeleton import skeleton_key
from quickthaw.snapshot.tensors import DTYPES, slots

TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 3e-2,
}
"""The largest difference from the uncompiled block, as a share of the largest output."""
_SEED = 0


class NotCompilable(Exception):
    """The compiler cannot make code of a block, or code that agrees with it."""


class ComponentCompiler:
    """Compiles blocks of one component."""

    def __init__(self, component: Component, cache: CompiledCache) -> None:
        self._component = component
        self._cache = cache
        self._shape = f"{skeleton_key(component)} {' '.join(component.dtypes)}"
        self._generator = torch.Generator().manual_seed(_SEED)
        self._skeleton = build_skeleton(component)

    def compile(self, name: str, dtypes: Mapping[str, str], form: Form) -> Path | None:
        """Makes and keeps the code of the block `name`; None if it is there already.

        `dtypes`: of each of its tensors, as in the component's file. Raises NotCompilable.
        """
        block = self._block(name, dtypes)
        key = self._cache.key(self._shape, digest_of(block), form)
        if self._cache.find(key) is not None:
            return None
        call = example(form, self._cache.device, self._generator)
        try:
            content, expected = _compiled(block, call, self._cache.device)
        except Exception as error:
            # Whatever the compiler raises, the block goes on as it is.
            told = str(error).strip().splitlines()[:1]
            raise NotCompilable(f"{name}: {type(error).__name__}: {'; '.join(told)}") from error
        outputs, wanted = _outputs(name, expected)
        difference = self._check(name, block, call, content, outputs, wanted)
        kept: dict[str, JsonValue] = {
            "component": self._component.name,
            "class": type(block).__name__,
            "call": to_json(form),
            "difference": difference,
        }
        return self._cache.add(key, content, outputs, kept)

    def _block(self, name: str, dtypes: Mapping[str, str]) -> nn.Module:
        """The block with random weights on the device."""
        try:
            block = self._skeleton.get_submodule(name)
        except AttributeError as error:
            raise NotCompilable(f"{self._component.name} has no block {name!r:.200}") from error
        for slot in slots(block):
            empty = slot.holder[slot.key]
            assert empty is not None
            if not empty.is_meta:
                continue
            dtype = DTYPES[dtypes[slot.name]]
            tensor = _random(tuple(empty.shape), dtype, slot.key, self._generator)
            tensor = tensor.to(self._cache.device)
            slot.holder[slot.key] = (
                nn.Parameter(tensor, requires_grad=False) if slot.is_parameter else tensor
            )
        return block

    def _check(
        self,
        name: str,
        block: nn.Module,
        call: Example,
        content: bytes,
        outputs: str,
        expected: tuple[torch.Tensor, ...],
    ) -> float:
        """The difference between compiled and not; raises NotCompilable if it is too large."""
        with scratch_folder(self._cache.root) as folder:
            path = folder / "trial.so"
            path.write_bytes(content)
            code = Code(path, outputs)
            try:
                bound = BoundCode(code, open_runner(code, self._cache.device), tensors_of(block))
            except KeyError as error:
                raise NotCompilable(f"{name}: {error} is no tensor of the block") from error
            bound.attach()
            found = bound(_tensors(call))
            results = (found,) if isinstance(found, torch.Tensor) else found
            assert isinstance(results, tuple | list)
            worst = 0.0
            for ours, theirs in zip(results, expected, strict=True):
                largest = theirs.abs().max().item() or 1.0
                share = (ours.float() - theirs.float()).abs().max().item() / largest
                limit = TOLERANCE.get(theirs.dtype, 0.0)
                if not share <= limit:
                    raise NotCompilable(
                        f"{name}: compiled, it differs by {share:.2g} of its largest output; "
                        f"{limit:g} is allowed"
                    )
                worst = max(worst, share)
            bound.detach()
            return worst


def _compiled(block: nn.Module, call: Example, device: torch.device) -> tuple[bytes, object]:
    """The shared object, and what the block itself answers."""
    inductor: Any = torch._inductor
    with torch.no_grad():
        expected = block(*call.args, **call.kwargs)
        exported = torch.export.export(block, call.args, call.kwargs, strict=False)
        with tempfile.TemporaryDirectory() as folder:
            package = inductor.aoti_compile_and_package(
                exported,
                package_path=str(Path(folder, "block.pt2")),
                inductor_configs={
                    "aot_inductor.package_constants_in_so": False,
                    "aot_inductor.precompile_headers": False,  # pays only for many blocks
                    # Kernels for a GPU go into the shared object, which then is all there is.
                    **({"aot_inductor.embed_kernel_binary": True} if device.type == "cuda" else {}),
                },
            )
            with zipfile.ZipFile(package) as archive:
                (name,) = (each for each in archive.namelist() if each.endswith(".so"))
                return archive.read(name), expected


def _outputs(name: str, expected: object) -> tuple[str, tuple[torch.Tensor, ...]]:
    """What kind of answer it is, and its tensors."""
    if isinstance(expected, torch.Tensor):
        return "tensor", (expected,)
    if type(expected) in (tuple, list):
        found = tuple(cast("Sequence[object]", expected))
        tensors = tuple(each for each in found if isinstance(each, torch.Tensor))
        if len(tensors) == len(found):
            return type(expected).__name__, tensors
    raise NotCompilable(f"{name}: answers with a {type(expected).__name__}")


def _tensors(call: Example) -> list[torch.Tensor]:
    return form_of(call.args, call.kwargs)[1]


def _random(
    shape: tuple[int, ...], dtype: torch.dtype, key: str, generator: torch.Generator
) -> torch.Tensor:
    """Weights of a size that keeps a deep network's numbers where a trained one's are."""
    if dtype is torch.int8:
        return torch.randint(-127, 128, shape, generator=generator).to(dtype)
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    values = torch.randn(shape, generator=generator)
    if key == "weight_scale":
        # Of a quantised layer; its weights are up to 448 or 127.
        return values.abs().add(1).mul(1e-4).to(dtype)
    if key == "weight_quantized":
        return values.mul(100).clamp(-448, 448).to(dtype)
    if len(shape) > 1:
        return values.div(math.sqrt(math.prod(shape[1:]))).to(dtype)
    return (1 + 0.1 * values if key == "weight" else 0.1 * values).to(dtype)
