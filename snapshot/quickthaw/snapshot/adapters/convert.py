"""A LoRA file in anybody's naming, as layers of a base's components.

diffusers itself does the reading, so that kohya's, peft's and its own names, alphas and ranks mean
here what they mean there. It is given a pipeline of the base's modules without their weights.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from quickthaw.snapshot.adapters.bounds import check_lora
from quickthaw.snapshot.classes import Role, resolve
from quickthaw.snapshot.format import (
    Header,
    Problem,
    invalid,
    read_header,
    refuse_pickle_bytes,
    refuse_pickle_name,
)
from quickthaw.snapshot.manifest import ADAPTER_RANK_MAX, Component, Kind, Manifest
from quickthaw.snapshot.skeleton import build, building_alone
from quickthaw.snapshot.tensors import DTYPES, slots
from quickthaw.wire.errors import FailedPrecondition, InvalidArgument

logger = logging.getLogger(__name__)

_NAME = "adapter"
ADAPTED_KINDS = frozenset({Kind.DENOISER, Kind.TEXT_ENCODER})
_TENSORS_PER_LAYER = 4
"""Down, up and alpha; some trainers have a bias or a magnitude, which is refused by name."""
_MISMATCH = re.compile(
    r"size mismatch for (\S+?)(?:\.lora_\w+)?(?:\.\w+)?\.weight: "
    r".*?torch\.Size\(\[([\d, ]*)\]\).*?torch\.Size\(\[([\d, ]*)\]\)"
)
_MARKS = (".lora_", "lora_unet_", "lora_te", ".lora.", "lora_transformer_", "lora_linear_layer")


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """One layer of a component, its name there, and what the file has for it."""

    name: str
    down: torch.Tensor
    up: torch.Tensor
    alpha: float


def is_lora(path: Path) -> bool:
    """Whether a safetensors file holds an adapter rather than a model, by its tensors' names."""
    if not path.is_file():
        return False
    refuse_pickle_name(path.name)
    names = [entry.name for entry in lora_header(path).tensors]
    return bool(names) and all(
        any(mark in name for mark in _MARKS) or name.endswith(".alpha") for name in names
    )


def lora_header(path: Path, where: str = "") -> Header:
    with path.open("rb") as file:
        refuse_pickle_bytes(file.read(9), where or str(path))
        return read_header(file, where or str(path))


def read_lora(
    path: Path,
    base: Manifest,
    dtypes: Mapping[str, Mapping[str, str]],
    where: str = "",
    bytes_max: int | None = None,
) -> dict[str, list[AdaptedLayer]]:
    """The file's layers by component of the base, in the order of its modules.

    `dtypes`: the type of each stored tensor by component name, since adapters take the type of what
    they adapt. `where`: what errors call the file, if not by its path. `bytes_max`: in those types.
    The tensors may be views of the file. Raises `InvalidArgument` if the file does not fit,
    `SnapshotInvalid` for what cannot be packed, and `FailedPrecondition` without peft.
    """
    where = where or str(path)
    header = lora_header(path, where)
    check_lora(header, where)
    modules = {
        part.name: _weightless(part, dtypes[part.name])
        for part in base.modules
        if part.kind in ADAPTED_KINDS
    }
    _check_count(header, modules, where)
    if bytes_max is not None:
        _check_bytes(header, modules, bytes_max, where)
    with building_alone():
        _load(_pipeline(base, modules), path, where)
    found = {name: _adapted(module, where) for name, module in modules.items()}
    if not any(found.values()):
        known = ", ".join(modules)
        raise InvalidArgument(f"{where}: adapts none of the base's components ({known})")
    return {name: layers for name, layers in found.items() if layers}


def _check_count(header: Header, modules: Mapping[str, nn.Module], where: str) -> None:
    """peft compares every layer with every name that differs from the others in rank or alpha."""
    layers = sum(
        isinstance(layer, nn.Linear | nn.Conv2d)
        for module in modules.values()
        for layer in module.modules()
    )
    if len(header.tensors) > _TENSORS_PER_LAYER * layers:
        raise InvalidArgument(
            f"{where}: does not fit the base: it has {len(header.tensors)} tensors for the base's "
            f"{layers} layers"
        )


def _check_bytes(
    header: Header, modules: Mapping[str, nn.Module], bytes_max: int, where: str
) -> None:
    """A file in eight bits grows to four times its size over a base in 32."""
    weights = (weight for module in modules.values() for weight in module.parameters())
    item_bytes = max((weight.itemsize for weight in weights), default=1)
    nbytes = sum(math.prod(entry.shape) for entry in header.tensors) * item_bytes
    if nbytes > bytes_max:
        raise InvalidArgument(
            f"{where}: in its base's type it has {nbytes} bytes, and {bytes_max} are taken; "
            "send one of a smaller rank"
        )


def _weightless(part: Component, dtypes: Mapping[str, str]) -> nn.Module:
    """The component's module; each of its tensors is one number, seen in the tensor's shape."""
    module = build(replace(part, quantization=None))
    quantized = {} if part.quantization is None else part.quantization.layers
    for slot in slots(module):
        empty = slot.holder[slot.key]
        assert empty is not None
        layer = slot.name.rpartition(".")[0]
        dtype = quantized.get(layer) or dtypes.get(part.aliases.get(slot.name, slot.name))
        one = torch.zeros((), dtype=DTYPES[dtype] if dtype else empty.dtype).expand(empty.shape)
        slot.holder[slot.key] = nn.Parameter(one, requires_grad=False) if slot.is_parameter else one
    return module


def _pipeline(base: Manifest, modules: Mapping[str, nn.Module]) -> Any:
    kind = resolve(base.pipeline_class, Role.PIPELINE)
    accepted = inspect.signature(kind.__init__).parameters
    parts: dict[str, Any] = {
        name: None
        for name, parameter in accepted.items()
        if name != "self" and parameter.default is parameter.empty
    }
    return kind(**{**parts, **base.pipeline_arguments, **modules})


def _load(pipeline: Any, path: Path, where: str) -> None:
    try:
        import peft  # noqa: F401  # diffusers loads adapters through it, and says less if it is gone
    except ImportError:
        raise FailedPrecondition(
            "packing a LoRA needs the package peft; install it: pip install peft"
        ) from None
    with _quiet(where):
        try:
            pipeline.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=_NAME,
                local_files_only=True,
                use_safetensors=True,
            )
        except Exception as error:
            raise InvalidArgument(f"{where}: does not fit the base: {_misfit(error)}") from error


def _misfit(error: Exception) -> str:
    """One line for the many that PyTorch has of layers in other shapes than the base's."""
    found = _MISMATCH.findall(str(error))
    if not found:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    layers = list(dict.fromkeys(layer for layer, _, _ in found))
    layer, given, expected = found[0]
    return (
        f"{len(layers)} of its layers are not shaped as the base's; the first is {layer}, which "
        f"has [{given}] in the file and [{expected}] in the base. Was it made for another model?"
    )


@contextmanager
def _quiet(where: str) -> Iterator[None]:
    """diffusers tells of components that a file leaves alone, which is as it should be."""
    library = logging.getLogger("diffusers")
    level = library.level
    library.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield
    finally:
        library.setLevel(level)
    for each in told:
        if "ignored" in str(each.message):  # alphas that diffusers does not find a layer for
            logger.warning("%s: %.300s", where, each.message)


def _adapted(module: nn.Module, where: str) -> list[AdaptedLayer]:
    from peft.tuners.lora import Conv2d, Linear, LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: list[AdaptedLayer] = []
    for name, layer in module.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        if not isinstance(layer, LoraLayer) or type(layer) not in (Linear, Conv2d):
            _unsupported(where, f"{name}: {type(layer).__name__}")
        settings: Any = layer
        if settings.use_dora[_NAME] or settings.use_rslora[_NAME] or settings.lora_bias[_NAME]:
            _unsupported(where, f"{name}: DoRA, rank-stabilised scaling or biases")
        down, up = (getattr(layer, kind)[_NAME].weight.detach() for kind in ("lora_A", "lora_B"))
        if down.is_meta or up.is_meta:
            invalid(Problem.MISSING, where, f"it has no weights for {name}")
        if down.shape[0] > ADAPTER_RANK_MAX:
            _unsupported(where, f"{name}: rank {down.shape[0]}, over {ADAPTER_RANK_MAX}")
        found.append(AdaptedLayer(name, down, up, float(settings.lora_alpha[_NAME])))
    return found


def _unsupported(where: str, what: str) -> NoReturn:
    raise InvalidArgument(
        f"{where}: {what} is not supported; plain LoRA of linear and 2-D convolution layers is. "
        "Merge it into its base with diffusers (fuse_lora, unload_lora_weights) and pack what that "
        "gives with --base"
    )
