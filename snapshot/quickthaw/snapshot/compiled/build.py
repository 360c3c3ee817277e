"""Making compiled code: one block and one form of call at a time, without the model's weights.

A block is built from the component's config, given random weights of the right types, exported,
compiled by AOTInductor with its weights left out, and compared with itself uncompiled before it is
kept, at several sizes if it is for more than one. This module imports the compiler, which takes
seconds: it runs in a process of its own (`python -m quickthaw.snapshot.compiled`).
"""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from quickthaw.snapshot.compiled.blocks_of import digest_of, tensors_of
from quickthaw.snapshot.compiled.bound import BoundCode, open_runner
from quickthaw.snapshot.compiled.cache import Code, CompiledCache
from quickthaw.snapshot.compiled.calls import Example, Form, example, form_of, to_json
from quickthaw.snapshot.compiled.export import Exported, export, export_open
from quickthaw.snapshot.compiled.scratch import scratch_folder
from quickthaw.snapshot.compiled.sizes import OPEN, Sizes, open_form
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


@dataclass(frozen=True, slots=True)
class Made:
    """Code that agrees with its block."""

    content: bytes
    outputs: str
    sizes: Sizes | None
    difference: float


class ComponentCompiler:
    """Compiles blocks of one component."""

    def __init__(self, component: Component, cache: CompiledCache) -> None:
        self._component = component
        self._cache = cache
        self._shape = f"{skeleton_key(component)} {' '.join(component.dtypes)}"
        self._generator = torch.Generator().manual_seed(_SEED)
        self._skeleton = build_skeleton(component)

    def compile(self, name: str, dtypes: Mapping[str, str], form: Form) -> Path | None:
        """Makes and keeps code of the block `name`; None if what is there already will do.

        It is for every size if the block can be compiled so, and otherwise for that of `form`.
        `dtypes`: of each of its tensors, as in the component's file. Raises NotCompilable.
        """
        block = self._block(name, dtypes)
        described = digest_of(block)
        keys = [self._cache.key(self._shape, described, each) for each in (open_form(form), form)]
        there = [self._cache.find(key) for key in keys]
        if any(code is not None and code.admits(form) for code in there):
            return None
        refused = ""
        if there[0] is None:
            try:
                made = self._made(name, block, form, every_size=True)
                return self._kept(keys[0], made, block, form, refused)
            except NotCompilable as error:
                refused = str(error)
        made = self._made(name, block, form, every_size=False)
        return self._kept(keys[1], made, block, form, refused)

    def _made(self, name: str, block: nn.Module, form: Form, *, every_size: bool) -> Made:
        """Compiled and compared. Raises NotCompilable."""
        try:
            with torch.no_grad(), scratch_folder(self._cache.root) as folder:
                call = self._example(form)
                exported, sizes = export_open(block, call) if every_size else export(block, call)
                content = _compiled(exported, self._cache.device)
                path = folder / "trial.so"
                path.write_bytes(content)
                code = Code("", path, _kind(block(*call.args, **call.kwargs)), sizes)
                _change_weights(block)
                others = _other_sizes(sizes, form) if sizes is not None else []
                calls = [call, *map(self._example, others)]
                worst = max(self._difference(block, each, code) for each in calls)
                return Made(content, code.outputs, sizes, worst)
        except Exception as error:
            # Whatever the compiler raises, the block goes on as it is.
            told = str(error).strip().splitlines()[:1]
            kind = "" if isinstance(error, NotCompilable) else f"{type(error).__name__}: "
            raise NotCompilable(f"{name}: {kind}{'; '.join(told)}") from error

    def _example(self, form: Form) -> Example:
        return example(form, self._cache.device, self._generator)

    def _kept(self, key: str, made: Made, block: nn.Module, form: Form, refused: str) -> Path:
        told: dict[str, JsonValue] = {
            "component": self._component.name,
            "class": type(block).__name__,
            "call": to_json(form),
            "difference": made.difference,
            "one_size_because": refused,
        }
        return self._cache.add(key, made.content, made.outputs, told, made.sizes)

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

    def _difference(self, block: nn.Module, call: Example, code: Code) -> float:
        """Between compiled and not, as a share; raises NotCompilable if it is too large."""
        expected = _outputs(block(*call.args, **call.kwargs))
        try:
            bound = BoundCode(code, open_runner(code, self._cache.device), tensors_of(block))
        except KeyError as error:
            raise NotCompilable(f"{error} is no tensor of the block") from error
        bound.attach()
        found = _outputs(bound(form_of(call.args, call.kwargs)[1]))
        bound.detach()
        return max(_share(*pair) for pair in zip(found, expected, strict=True))


def _share(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> float:
    """Of the largest number. Raises NotCompilable if it is more than may be."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        if ours is theirs:
            return 0.0
        raise NotCompilable("compiled, it answers in other shapes")
    largest = theirs.abs().max().item() or 1.0
    share = (ours.float() - theirs.float()).abs().max().item() / largest
    limit = TOLERANCE.get(theirs.dtype, 0.0)
    if not share <= limit:
        raise NotCompilable(
            f"compiled, it differs by {share:.2g} of its largest output; {limit:g} is allowed"
        )
    return share


def _change_weights(block: nn.Module) -> None:
    """So that code which kept those it was compiled with gives itself away."""
    for slot in slots(block):
        tensor = slot.holder[slot.key]
        if tensor is not None and tensor.dtype in TOLERANCE:
            tensor.data = tensor.data * 1.25


def _other_sizes(sizes: Sizes, form: Form) -> list[Form]:
    """Calls of sizes that it was not compiled at, odd ones among them. Raises NotCompilable."""
    changes: tuple[Callable[[int], int], ...] = (
        lambda size: size + 1,
        lambda size: max(OPEN, size // 2),
    )
    others = [other for change in changes if (other := sizes.other(form, change)) is not None]
    if not others:
        raise NotCompilable("no other size that it could be tried at")
    return others


def _compiled(exported: Exported, device: torch.device) -> bytes:
    """The shared object."""
    inductor: Any = torch._inductor
    with tempfile.TemporaryDirectory() as folder:
        package = inductor.aoti_compile_and_package(
            exported,
            package_path=str(Path(folder, "block.pt2")),
            inductor_configs={
                "aot_inductor.package_constants_in_so": False,
                # Or the numbers of small weights, which are random here, become part of the code.
                "always_keep_tensor_constants": True,
                "aot_inductor.precompile_headers": False,  # pays only for many blocks
                # Kernels for a GPU go into the shared object, which then is all there is.
                **({"aot_inductor.embed_kernel_binary": True} if device.type == "cuda" else {}),
            },
        )
        with zipfile.ZipFile(package) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith(".so"))
            return archive.read(name)


def _kind(answer: object) -> str:
    """Raises NotCompilable for what code cannot answer with."""
    if isinstance(answer, torch.Tensor):
        return "tensor"
    if type(answer) in (tuple, list):
        parts = cast("Sequence[object]", answer)
        if all(each is None or isinstance(each, torch.Tensor) for each in parts):
            return type(answer).__name__
    raise NotCompilable(f"answers with a {type(answer).__name__}")


def _outputs(answer: object) -> Sequence[torch.Tensor | None]:
    return (answer,) if isinstance(answer, torch.Tensor) else cast("Sequence[Any]", answer)


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
