"""A bound on what a config may make a library build.

A few bytes of config can ask for millions of layers. How many tensors a component has is known
from its file before its module is built, so building stops where it has outgrown that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from quickthaw.snapshot.format import Problem, invalid

PARAMETERS_PER_TENSOR_MAX = 2
"""Some are made and then replaced, such as tied ones."""
MODULES_PER_TENSOR_MAX = 8
"""Activations, dropouts and containers have no tensors."""
SLACK = 1000


@contextmanager
def bounded_build(tensors: int, where: str) -> Iterator[None]:
    """Raises `SnapshotInvalid` out of the block once this thread has made too much for `tensors`.

    Only one thread at a time may be in such a block.
    """
    thread = threading.get_ident()
    left = {
        "parameters": tensors * PARAMETERS_PER_TENSOR_MAX + SLACK,
        "modules": tensors * MODULES_PER_TENSOR_MAX + SLACK,
    }

    def count(kind: str) -> None:
        if threading.get_ident() != thread:
            return
        left[kind] -= 1
        if left[kind] < 0:
            invalid(
                Problem.MANIFEST,
                where,
                f"the config makes a module of more {kind} than the file's {tensors} tensors can "
                "be for",
            )

    def on_module(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        count("modules")

    def on_parameter(parent: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        count("parameters")

    hooks = (
        register_module_module_registration_hook(on_module),
        register_module_parameter_registration_hook(on_parameter),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
