"""Exporting a block for every size that it can be compiled for at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._sympy.printers import PythonPrinter

from quickthaw.snapshot.compiled.calls import Example, form_of
from quickthaw.snapshot.compiled.sizes import Sizes

_untyped: Any = torch.export
Exported = torch.export.ExportedProgram


class OneSizeOnly(Exception):
    """The block's code, or what there is to say of it, depends on the very sizes."""


def export(block: nn.Module, call: Example) -> tuple[Exported, None]:
    """For the sizes of this call."""
    return torch.export.export(block, call.args, call.kwargs, strict=False), None


def export_open(block: nn.Module, call: Example) -> tuple[Exported, Sizes]:
    """For all sizes that can stay open. Raises OneSizeOnly, and whatever the exporter does."""
    form, tensors = form_of(call.args, call.kwargs)
    shapes: Any = _untyped.ShapesCollection()
    for tensor in tensors:
        # A size of 1 broadcasts, which is other code.
        shapes[tensor] = {
            place: _untyped.Dim.AUTO for place, side in enumerate(tensor.shape) if side > 1
        }
    asked = shapes.dynamic_shapes(block, call.args, call.kwargs)
    exported = torch.export.export(
        block, call.args, call.kwargs, dynamic_shapes=asked, strict=False
    )
    inputs = {*exported.graph_signature.user_inputs}
    given = [node.meta["val"] for node in exported.graph.nodes if node.name in inputs]
    told = [each for each in given if isinstance(each, torch.Tensor)]
    try:
        sizes = Sizes(
            [([*map(_said, each.shape)], [*map(_said, each.stride())]) for each in told],
            [*_conditions(exported, told)],
        )
    except (ValueError, SyntaxError) as error:
        raise OneSizeOnly(f"its sizes cannot be told: {error}") from error
    if not sizes.values(form):
        raise OneSizeOnly("none of its sizes can stay open")
    return exported, sizes


def _said(size: int | torch.SymInt) -> str:
    return str(size) if isinstance(size, int) else _printed(size.node.expr)


def _conditions(exported: Exported, told: list[Any]) -> Iterator[str]:
    sizes = [size for each in told for size in each.shape if not isinstance(size, int)]
    for environment in {id(size.node.shape_env): size.node.shape_env for size in sizes}.values():
        for guard in environment.guards:
            if (condition := _printed(environment.simplify(guard.expr))) != "True":
                yield condition
    for symbol, limits in exported.range_constraints.items():
        for limit, relation in ((limits.lower, ">="), (limits.upper, "<=")):
            if getattr(limit, "is_Integer", False):
                yield f"{_printed(symbol)} {relation} {int(limit)}"


def _printed(expression: object) -> str:
    printed: str = PythonPrinter().doprint(expression)
    return printed
