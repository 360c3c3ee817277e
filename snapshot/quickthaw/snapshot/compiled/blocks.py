"""Running a model's repeated blocks as compiled code, bound to the snapshot's own tensors.

Code of every size is looked for first, then that of the call's own. Calls of a form that there is
no code for run as they always did, and are noted so that code can be made.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from quickthaw.snapshot.compiled.blocks_of import digest_of, repeated_blocks, tensors_of
from quickthaw.snapshot.compiled.bound import BoundCode, aligned, open_runner
from quickthaw.snapshot.compiled.cache import Code, CompiledCache
from quickthaw.snapshot.compiled.calls import Form, NoForm, form_of
from quickthaw.snapshot.compiled.sizes import open_form
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.skeleton import skeleton_key
from quickthaw.snapshot.tensors import NAMES

logger = logging.getLogger(__name__)

CALLS_MAX = 1 << 16
"""Remembered forms of a module's blocks' calls; a model may be asked for any number of sizes."""


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
    """One block of a module, and what was found for each form of its calls."""

    def __init__(self, name: str, module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        self.name = name
        self.module = module
        self.tensors = tensors
        self.codes: dict[Form, BoundCode | None] = {}
        self.bound: dict[str, BoundCode | None] = {}
        """By the code's key; None for code that failed."""

    @functools.cached_property
    def described(self) -> str:
        return digest_of(self.module)

    def drop(self, failed: BoundCode) -> None:
        self.codes.clear()
        self.bound = {key: None if bound is failed else bound for key, bound in self.bound.items()}


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
        self._noted: set[str] = set()
        """Keys of code that need not be asked for: it was, or there is some that cannot be used."""
        self._calls = 0
        self._generation = cache.generation

    def _look_again(self) -> None:
        """What was missing may have been made since."""
        self._generation = self._cache.generation
        self._found = {key: code for key, code in self._found.items() if code is not None}
        self._noted.clear()
        self._calls = 0
        for block in self._blocks:
            block.codes.clear()
            block.bound = {key: code for key, code in block.bound.items() if code is not None}

    @contextmanager
    def running(self) -> Iterator[Usage]:
        """While it lasts, calls of the blocks go to compiled code where there is some."""
        if self._generation != self._cache.generation or self._calls > CALLS_MAX:
            self._look_again()
        usage = Usage()
        replaced: list[nn.Module] = []
        attached: list[BoundCode] = []
        try:
            for block in self._blocks:
                for bound in block.bound.values():
                    if bound is not None:
                        attached.append(bound)
                        bound.attach()
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
            for bound in attached:
                bound.detach()

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
            self._calls += 1
            code = self._code(block, form, usage)
            block.codes[form] = self._bound(block, code, attached) if code is not None else None
        bound = block.codes[form]
        if bound is not None and aligned(tensors):
            try:
                outputs = bound(tensors)
            except torch.OutOfMemoryError:
                raise  # nothing is wrong with the code
            except RuntimeError as error:
                logger.warning("compiled %s failed and is not used again: %s", block.name, error)
                block.drop(bound)
                usage.failed_calls += 1
            else:
                usage.compiled_calls += 1
                return outputs
        usage.eager_calls += 1
        return forward(*args, **kwargs)

    def _code(self, block: _Block, form: Form, usage: Usage) -> Code | None:
        """What there is for such a call; what there is not is noted, once for all sizes."""
        open_key, own_key = (
            self._cache.key(self._shape, block.described, each) for each in (open_form(form), form)
        )
        for key in (open_key, own_key):
            if key not in self._found:
                self._found[key] = self._cache.find(key)
            if (code := self._found[key]) is not None and code.admits(form):
                return code
        if not self._noted & {open_key, own_key}:
            self._noted.add(open_key)
            dtypes = tuple((name, NAMES[each.dtype]) for name, each in block.tensors.items())
            usage.missing.append(Missing(self._component.name, block.name, dtypes, form))
        return None

    def _bound(self, block: _Block, code: Code, attached: list[BoundCode]) -> BoundCode | None:
        if code.key not in block.bound:
            block.bound[code.key] = None
            try:
                # What is made here lives longer than the run and its inference mode.
                with torch.inference_mode(False):
                    bound = BoundCode(code, open_runner(code, self._cache.device), block.tensors)
                    attached.append(bound)
                    bound.attach()
                    block.bound[code.key] = bound
            except (RuntimeError, KeyError) as error:
                logger.warning("compiled %s cannot be used: %s", block.name, error)
                self._found[code.key] = None
                self._noted.add(code.key)
        return block.bound[code.key]
