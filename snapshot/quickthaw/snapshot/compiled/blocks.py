"""Running a model's repeated blocks as compiled code, bound to the snapshot's own tensors.

Code takes a block's weights by address and copies nothing. Addresses change when a model is evicted
and comes back, so they are looked at before every run and bound anew if they moved; after a run the
code holds on to no weight, so memory that is freed is free. Calls of a form that there is no code
for run as they always did, and are noted so that code can be made.

Code is one shared object a block and form; each block that uses it has a runner of its own, which
is made in 30 microseconds (a `.pt2` package would be unpacked and linked for each: 4 milliseconds).
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from quickthaw.snapshot.compiled.blocks_of import digest_of, repeated_blocks, tensors_of
from quickthaw.snapshot.compiled.cache import Code, CompiledCache
from quickthaw.snapshot.compiled.calls import Form, NoForm, form_of
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.skeleton import skeleton_key
from quickthaw.snapshot.tensors import NAMES

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True, slots=True)
class Missing:
    """A block and a form of call that there is no code for."""

    component: str
    block: str
    dtypes: tuple[tuple[str, str], ...]
    """Of the block's tensors, by name."""
    form: Form


@dataclass(slots=True)
class Usage:
    """What one run made of the code there is."""

    compiled_calls: int = 0
    eager_calls: int = 0
    failed_calls: int = 0
    """Of the eager ones, those whose code raised; it is not used again."""
    missing: list[Missing] = field(default_factory=list[Missing])
    """One for each code to be made."""

    def add(self, other: Usage) -> None:
        self.compiled_calls += other.compiled_calls
        self.eager_calls += other.eager_calls
        self.failed_calls += other.failed_calls
        self.missing += other.missing

    def __str__(self) -> str:
        """For a receipt; empty if nothing ran compiled."""
        calls = self.compiled_calls + self.eager_calls
        return f"{self.compiled_calls} of {calls} block calls" if self.compiled_calls else ""


class _Block:
    """One block of a module, and the code found for each form of its calls."""

    def __init__(self, name: str, module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        self.name = name
        self.module = module
        self.tensors = tensors
        self.codes: dict[Form, BoundCode | None] = {}

    @functools.cached_property
    def described(self) -> str:
        return digest_of(self.module)


class CompiledBlocks:
    """The repeated blocks of one bound module. One run at a time, as for the module itself.

    `component`: what the module was built from, and the types that its tensors have now; another
    one with the same module needs another `CompiledBlocks`.
    """

    def __init__(self, component: Component, module: nn.Module, cache: CompiledCache) -> None:
        self._component = component
        self._shape = f"{skeleton_key(component)} {' '.join(component.dtypes)}"
        self._cache = cache
        self._blocks = [
            _Block(name, block, tensors_of(block)) for name, block in repeated_blocks(module)
        ]
        self._found: dict[str, Code | None] = {}
        self._generation = cache.generation

    def _look_again(self) -> None:
        """What was missing may have been made since."""
        self._generation = self._cache.generation
        self._found = {key: code for key, code in self._found.items() if code is not None}
        for block in self._blocks:
            block.codes = {form: code for form, code in block.codes.items() if code is not None}

    @contextmanager
    def running(self) -> Iterator[Usage]:
        """While it lasts, calls of the blocks go to compiled code where there is some."""
        if self._generation != self._cache.generation:
            self._look_again()
        usage = Usage()
        replaced: list[nn.Module] = []
        attached: list[BoundCode] = []
        try:
            for block in self._blocks:
                for code in block.codes.values():
                    if code is not None:
                        attached.append(code)
                        code.attach()
                own = vars(block.module)
                if "forward" in own:
                    continue  # somebody else's, who may rely on being called
                forward = block.module.forward
                own["forward"] = functools.partial(self._call, block, forward, usage, attached)
                replaced.append(block.module)
            yield usage
        finally:
            for module in replaced:
                vars(module).pop("forward", None)
            for code in attached:
                code.detach()

    def _call(
        self,
        block: _Block,
        forward: Callable[..., object],
        usage: Usage,
        attached: list[BoundCode],
        /,
        *args: object,
        **kwargs: object,
    ) -> object:
        try:
            form, tensors = form_of(args, kwargs)
        except NoForm:
            usage.eager_calls += 1
            return forward(*args, **kwargs)
        if form not in block.codes:
            block.codes[form] = code = self._open(block, form, usage)
            if code is not None:
                attached.append(code)
                with torch.inference_mode(False):
                    code.attach()
        code = block.codes[form]
        if code is not None and _aligned(tensors):
            try:
                outputs = code(tensors)
            except torch.OutOfMemoryError:
                raise  # nothing is wrong with the code
            except RuntimeError as error:
                logger.warning("compiled %s failed and is not used again: %s", block.name, error)
                block.codes[form] = None
                usage.failed_calls += 1
            else:
                usage.compiled_calls += 1
                return outputs
        usage.eager_calls += 1
        return forward(*args, **kwargs)

    def _open(self, block: _Block, form: Form, usage: Usage) -> BoundCode | None:
        key = self._cache.key(self._shape, block.described, form)
        if key not in self._found:
            self._found[key] = self._cache.find(key)
            if self._found[key] is None:
                dtypes = tuple((name, NAMES[each.dtype]) for name, each in block.tensors.items())
                usage.missing.append(Missing(self._component.name, block.name, dtypes, form))
        if (code := self._found[key]) is None:
            return None
        try:
            # What is made here lives longer than the run and its inference mode.
            with torch.inference_mode(False):
                return BoundCode(code, open_runner(code, self._cache.device), block.tensors)
        except (RuntimeError, KeyError) as error:
            logger.warning("compiled %s cannot be used: %s", block.name, error)
            self._found[key] = None
            return None


def _aligned(tensors: list[torch.Tensor]) -> bool:
    """Code for CUDA reads sixteen bytes at a time; views may start anywhere."""
    return not any(each.is_cuda and each.data_ptr() % _CUDA_ALIGNMENT for each in tensors)
