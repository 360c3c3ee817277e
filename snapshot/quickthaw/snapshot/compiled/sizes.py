"""What sizes code is for: one, or all of which some conditions hold.

The compiler can leave open each size of a call's tensors that a block need not know. It then tells
the sizes and strides it reckons with as expressions, such as `s0 + s1`, and the conditions between
them. Both are looked at once for each form of call: what they do not admit is not run.

Sizes of 1 are never open. Code for several pictures is not that for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

from quickthaw.snapshot.compiled.calls import Form
from quickthaw.snapshot.fields import JsonValue

ITEMS_MAX = 1 << 27
"""Of a tensor that code of open sizes is given; between its own, kernels may count in 32 bits."""
OPEN = 2
"""In an open form: any size but 0 and 1."""
_Shape: TypeAlias = tuple[int, ...]
_FUNCTIONS = {"min": min, "max": max}


def open_form(form: Form) -> Form:
    """The same for calls that differ in sizes alone; no call has it itself."""

    def opened(shape: _Shape, stride: _Shape) -> Form:
        steps = _steps(shape, stride)
        order = sorted({*steps})
        sizes = tuple(min(side, OPEN) for side in shape)
        return ("sized", sizes, tuple(order.index(step) if step else -1 for step in steps))

    return _replaced(form, opened)


def _steps(shape: _Shape, stride: _Shape) -> _Shape:
    """The strides that are ever taken."""
    return tuple(step if side > 1 else 0 for side, step in zip(shape, stride, strict=True))


def _replaced(form: Form, new: Callable[[_Shape, _Shape], Form]) -> Form:
    """With a new kind, shape and stride for each tensor, in order."""
    match form:
        case ("tensor", dtype, tuple() as shape, tuple() as stride):
            kind, sizes, steps = new(cast("_Shape", shape), cast("_Shape", stride))
            return (kind, dtype, sizes, steps)
        case (("tuple" | "list") as kind, *items):
            return (kind, *(_replaced(cast("Form", item), new) for item in items))
        case ("dict", *entries):
            pairs = cast("list[tuple[str, Form]]", entries)
            return ("dict", *((key, _replaced(item, new)) for key, item in pairs))
        case (tuple() as args, tuple() as kwargs):
            return (_replaced(args, new), _replaced(kwargs, new))
        case _:
            return form


def tensor_sizes(form: Form) -> list[tuple[_Shape, _Shape]]:
    """Shape and stride of each tensor, in order."""
    found: list[tuple[_Shape, _Shape]] = []

    def noted(shape: _Shape, stride: _Shape) -> Form:
        found.append((shape, stride))
        return ("tensor", shape, stride)

    _replaced(form, noted)
    return found


class Sizes:
    """The sizes that one code is for.

    `tensors`: shape and stride of each, as expressions; `conditions`: between their names. Raises
    ValueError if a name in them is not a size of some tensor.
    """

    def __init__(
        self,
        tensors: Sequence[tuple[Sequence[str], Sequence[str]]],
        conditions: Sequence[str],
    ) -> None:
        self._tensors = tuple((tuple(shape), tuple(stride)) for shape, stride in tensors)
        self._conditions = tuple(conditions)
        self._places = dict(self._named())
        told = _tuple(f"({_tuple(shape)}, {_tuple(stride)})" for shape, stride in self._tensors)
        self._told = self._read(told)
        self._holds = self._read(" and ".join(f"({each})" for each in self._conditions) or "True")

    def _named(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for tensor, (shape, _) in enumerate(self._tensors):
            for dimension, size in enumerate(shape):
                if size.isidentifier():
                    yield size, (tensor, dimension)

    def _read(self, expression: str) -> Callable[[Mapping[str, int]], object]:
        code = compile(expression, "<sizes>", "eval")
        if unknown := set(code.co_names) - self._places.keys() - _FUNCTIONS.keys():
            raise ValueError(f"{', '.join(sorted(unknown))}: no size of a tensor")
        # It was signed together with machine code: who could change it could do worse.
        return lambda values: eval(code, {"__builtins__": {}, **_FUNCTIONS}, dict(values))

    def values(self, form: Form) -> dict[str, int] | None:
        """The open sizes of a call by name; None if the code is not for it."""
        found = tensor_sizes(form)
        if [len(shape) for shape, _ in found] != [len(shape) for shape, _ in self._tensors]:
            return None
        if any(math.prod(shape) > ITEMS_MAX for shape, _ in found):
            return None
        values = {name: found[at][0][place] for name, (at, place) in self._places.items()}
        try:
            told = cast("tuple[tuple[_Shape, _Shape], ...]", self._told(values))
            fits = self._holds(values)
        except ArithmeticError:
            return None
        for (shape, stride), (own, steps) in zip(found, told, strict=True):
            fits = fits and shape == own and _steps(shape, stride) == _steps(own, steps)
        return values if fits else None

    def admits(self, form: Form) -> bool:
        return self.values(form) is not None

    def other(self, form: Form, change: Callable[[int], int]) -> Form | None:
        """A call like `form`, which is admitted, with as many other sizes as may be; None if it may
        have no other.
        """
        values = self.values(form) or {}
        found = form
        for name, value in values.items():
            tried = {**values, name: change(value)}
            if (changed := self._called(form, tried)) is not None:
                values, found = tried, changed
        return found if found != form else None

    def _called(self, form: Form, values: Mapping[str, int]) -> Form | None:
        """A call of these sizes; None if it is not admitted."""
        try:
            told = self._told(values)
        except ArithmeticError:
            return None
        new = iter(cast("tuple[tuple[_Shape, _Shape], ...]", told))
        called = _replaced(form, lambda *_: ("tensor", *next(new)))
        return called if self.admits(called) else None

    def to_json(self) -> JsonValue:
        tensors: list[JsonValue] = [[[*shape], [*stride]] for shape, stride in self._tensors]
        return {"tensors": tensors, "conditions": [*self._conditions]}

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> Sizes:
        """Of what `to_json` made, from a signed document."""
        tensors = cast("list[tuple[list[str], list[str]]]", value["tensors"])
        return cls(tensors, cast("list[str]", value["conditions"]))


def _tuple(items: Iterable[str]) -> str:
    return f"({''.join(f'{item}, ' for item in items)})"
