"""The form of a call: everything about its arguments but the values in its tensors.

Compiled code is made for one form. Whatever a tensor's type, sizes or strides are, and whatever
else the arguments say, is part of it, so code can never be run on what it was not made for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch

from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.tensors import DTYPES, NAMES

Form: TypeAlias = tuple[object, ...]
"""Of one value: `("tensor", dtype, shape, stride)`, `("list" or "tuple" or "dict", ...)`,
`("plain", type, value)`. Hashable."""
DEPTH_MAX = 8
_PLAIN: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


class NoForm(Exception):
    """An argument of a type that compiled code cannot be made for."""


def form_of(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[Form, list[torch.Tensor]]:
    """A call's form, and its tensors in order. Raises NoForm."""
    tensors: list[torch.Tensor] = []
    return (_form(args, tensors), _form(kwargs, tensors)), tensors


def _form(value: object, tensors: list[torch.Tensor]) -> Form:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            raise NoForm("a sparse tensor")
        tensors.append(value)
        return ("tensor", value.dtype, tuple(value.shape), value.stride())
    if value is None:
        return ("none",)
    kind = type(value)
    if kind in (tuple, list):
        items = cast("list[object]", value)
        return (kind.__name__, *(_form(item, tensors) for item in items))
    if kind is dict:
        entries = cast("dict[object, object]", value)
        if not all(isinstance(key, str) for key in entries):
            raise NoForm("a dictionary with keys that are not texts")
        return ("dict", *((key, _form(item, tensors)) for key, item in entries.items()))
    if kind.__name__ in _PLAIN and _PLAIN[kind.__name__] is kind:
        return ("plain", kind.__name__, value)
    raise NoForm(f"a {kind.__name__}")


def to_json(form: Form) -> JsonValue:
    """For a file or another process; `from_json` makes an equal form of it."""
    match form:
        case ("tensor", torch.dtype() as dtype, tuple() as shape, tuple() as stride):
            return ["tensor", NAMES[dtype], [*shape], [*stride]]
        case ("sized", torch.dtype() as dtype, tuple() as sizes, tuple() as order):
            return ["sized", NAMES[dtype], [*sizes], [*order]]
        case (("tuple" | "list") as kind, *items):
            return [str(kind), *(to_json(cast("Form", item)) for item in items)]
        case ("dict", *entries):
            pairs = cast("list[tuple[str, Form]]", entries)
            return ["dict", *([key, to_json(item)] for key, item in pairs)]
        case ("none",):
            return ["none"]
        case ("plain", str() as kind, (bool() | int() | float() | str()) as value):
            return ["plain", kind, value]
        case (tuple() as args, tuple() as kwargs):
            return [to_json(args), to_json(kwargs)]
        case _:
            raise NoForm(repr(form)[:200])


def from_json(value: JsonValue, depth: int = 0) -> Form:
    """Raises NoForm for anything that `to_json` does not write."""
    if depth > DEPTH_MAX or not isinstance(value, list):
        raise NoForm(repr(value)[:200])
    match value:
        case ["tensor", str() as dtype, list() as shape, list() as stride] if dtype in DTYPES:
            return ("tensor", DTYPES[dtype], _sizes(shape), _sizes(stride))
        case [("tuple" | "list") as kind, *items]:
            return (kind, *(from_json(item, depth + 1) for item in items))
        case ["dict", *entries]:
            return ("dict", *(_entry(entry, depth) for entry in entries))
        case ["none"]:
            return ("none",)
        case ["plain", str() as kind, (bool() | int() | float() | str()) as plain] if type(
            plain
        ) is _PLAIN.get(kind):
            return ("plain", kind, plain)
        case [list() as args, list() as kwargs]:
            return (from_json(args, depth + 1), from_json(kwargs, depth + 1))
        case _:
            raise NoForm(repr(value)[:200])


def _entry(value: JsonValue, depth: int) -> tuple[str, Form]:
    match value:
        case [str() as key, list() as item]:
            return (key, from_json(item, depth + 1))
        case _:
            raise NoForm(repr(value)[:200])


def _sizes(values: list[JsonValue]) -> tuple[int, ...]:
    sizes = tuple(value for value in values if type(value) is int and value >= 0)
    if len(sizes) != len(values):
        raise NoForm(repr(values)[:200])
    return sizes


@dataclass(frozen=True, slots=True)
class Example:
    """Arguments of some form, to compile with."""

    args: tuple[object, ...]
    kwargs: dict[str, object]


def example(form: Form, device: torch.device, generator: torch.Generator) -> Example:
    """Small random numbers; integers are 0 and booleans true."""
    args, kwargs = (_value(cast("Form", part), device, generator) for part in form)
    return Example(cast("tuple[object, ...]", args), cast("dict[str, object]", kwargs))


def _value(form: Form, device: torch.device, generator: torch.Generator) -> object:
    match form:
        case ("tensor", torch.dtype() as dtype, tuple() as shape, tuple() as stride):
            # What lies under it is filled: an expanded tensor has items that share their memory.
            under = _items_under(shape, stride)
            if dtype.is_floating_point:
                items = torch.randn(under, generator=generator).to(device, dtype)
            else:
                items = torch.full((under,), int(dtype is torch.bool), dtype=dtype, device=device)
            return items.as_strided(shape, stride)
        case ("tuple", *items):
            return tuple(_value(cast("Form", item), device, generator) for item in items)
        case ("list", *items):
            return [_value(cast("Form", item), device, generator) for item in items]
        case ("dict", *entries):
            pairs = cast("list[tuple[str, Form]]", entries)
            return {key: _value(item, device, generator) for key, item in pairs}
        case ("plain", _, value):
            return value
        case _:
            return None


def _items_under(shape: Sequence[int], stride: Sequence[int]) -> int:
    """How much memory a tensor spans, in items."""
    if 0 in shape:
        return 0
    return 1 + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
