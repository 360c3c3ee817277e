"""Compiled code linked into this process, and bound to one block's tensors.

Code takes a block's weights by address and copies nothing. Addresses change when a model is evicted
and comes back, so they are looked at before every run and bound anew if they moved; after a run the
code holds on to no weight, so memory that is freed is free.

Code is one shared object; each block that uses it has a runner of its own, which is made in 30
microseconds (a `.pt2` package would be unpacked and linked for each: 4 milliseconds).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import torch

from quickthaw.snapshot.compiled.cache import Code

_CUDA_ALIGNMENT = 16


class Runner(Protocol):
    """torch's container of one compiled model (`AOTIModelContainerRunner`)."""

    def run(self, inputs: list[torch.Tensor], /) -> list[torch.Tensor]: ...

    def get_constant_names_to_original_fqns(self) -> dict[str, str]: ...

    def update_constant_buffer(
        self,
        tensor_map: dict[str, torch.Tensor],
        use_inactive: bool,
        validate_full_updates: bool,
        user_managed: bool,
        /,
    ) -> None: ...


def open_runner(code: Code, device: torch.device) -> Runner:
    """Links the code into this process. Raises RuntimeError if it does not fit."""
    # The only door to these classes: torch's Python wrapper imports its compiler, which takes
    # seconds, and reads packages only.
    library: Any = importlib.import_module("torch._C._aoti")
    runner: Runner
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        runner = library.AOTIModelContainerRunnerCuda(str(code.path), 1, f"cuda:{index}", "")
    else:
        runner = library.AOTIModelContainerRunnerCpu(str(code.path), 1)
    return runner


class BoundCode:
    """One block's runner and the tensors it was given."""

    def __init__(self, code: Code, runner: Runner, tensors: dict[str, torch.Tensor]) -> None:
        """`tensors`: the block's. Raises KeyError if the code wants one that is not there."""
        self._runner = runner
        self._wrap = _WRAPPERS[code.outputs]
        names = runner.get_constant_names_to_original_fqns()
        self._sources = {name: tensors[original] for name, original in names.items()}
        # The runner never lets go of a tensor it was given (torch 2.13), so it is given these,
        # which point at the weights only while a run lasts.
        self._nothing = {name: each.new_empty(0) for name, each in self._sources.items()}
        self._handles = {name: each.new_empty(0) for name, each in self._sources.items()}
        self._addresses: list[int] = []

    def attach(self) -> None:
        """Before a run: points at the weights where they are now."""
        for name, handle in self._handles.items():
            handle.data = self._sources[name]
        addresses = [each.data_ptr() for each in self._sources.values()]
        if addresses != self._addresses:
            self._runner.update_constant_buffer(self._handles, False, True, True)
            self._addresses = addresses

    def detach(self) -> None:
        """After a run: holds on to no weight."""
        for name, handle in self._handles.items():
            handle.data = self._nothing[name]

    def __call__(self, tensors: list[torch.Tensor]) -> object:
        return self._wrap(self._runner.run(tensors))


_WRAPPERS: dict[str, Callable[[list[torch.Tensor]], object]] = {
    "tensor": lambda outputs: outputs[0],
    "tuple": tuple,
    "list": list,
}


def aligned(tensors: list[torch.Tensor]) -> bool:
    """Code for CUDA reads sixteen bytes at a time; views may start anywhere."""
    return not any(each.is_cuda and each.data_ptr() % _CUDA_ALIGNMENT for each in tensors)
