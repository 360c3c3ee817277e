"""What compiled code of a block depends on, beside the form of its calls."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.tensors import NAMES, slots

_NAMED_HERE: Mapping[str, tuple[str, ...]] = {
    "StableAudioDiTModel": ("StableAudioDiTBlock",),
    "UNetSpatioTemporalConditionModel": (
        "BasicTransformerBlock",
        "TemporalBasicTransformerBlock",
    ),
}
"""Classes of models whose repeated blocks diffusers does not name."""
_PLAIN = (bool, int, float, str, type(None))


def repeated_blocks(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The blocks that are worth compiling one by one, by name.

    diffusers' classes name theirs: `_repeated_blocks`, what `compile_repeated_blocks` goes by, or
    at least `_no_split_modules`, the blocks that have to stay on one device.
    """
    names = _block_classes(module)
    for name, part in module.named_modules():
        if type(part).__name__ in names:
            yield name, part


def _block_classes(module: nn.Module) -> frozenset[str]:
    if named := getattr(module, "_repeated_blocks", None):
        return frozenset[str](named)
    if here := _NAMED_HERE.get(type(module).__name__):
        return frozenset(here)
    whole: Iterable[str] = getattr(module, "_no_split_modules", None) or ()
    # Embeddings and norms are among them, which run once or take no time.
    return frozenset(name for name in whole if name.endswith("Block"))


def tensors_of(block: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, non-persistent ones too."""
    found = {slot.name: slot.holder[slot.key] for slot in slots(block)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def digest_of(block: nn.Module) -> str:
    """Equal for blocks that compute the same function of their tensors and arguments."""
    return hashlib.sha256(json.dumps(_described(block), sort_keys=True).encode()).hexdigest()


def _described(block: nn.Module) -> JsonValue:
    """Class, tensors and settings of a block and all of its parts."""
    return {
        "tensors": [
            [name, NAMES[tensor.dtype], [*tensor.shape]]
            for name, tensor in tensors_of(block).items()
        ],
        "parts": [
            [name, f"{type(part).__module__}.{type(part).__qualname__}", _settings(part)]
            for name, part in block.named_modules()
        ],
    }


def _settings(part: nn.Module) -> dict[str, JsonValue]:
    internal = nn.Module().__dict__.keys() - {"training"}
    return {
        key: _setting(value)
        for key, value in sorted(vars(part).items())
        if key not in internal and key != "forward"
    }


def _setting(value: Any) -> JsonValue:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_setting(item) for item in value]
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, torch.dtype):
        return str(value)
    if hasattr(value, "__dict__") and not isinstance(value, nn.Module):
        # Attention processors and the like: small objects with settings of their own.
        inner = {key: _setting(item) for key, item in vars(value).items() if _is_plain(item)}
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **inner}
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN)
