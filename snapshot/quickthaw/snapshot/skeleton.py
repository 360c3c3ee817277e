"""Modules without weights: built from their config alone, then given views of a buffer.

A skeleton is built on the meta device with all initialisation off, which takes tens of
milliseconds and a few megabytes for the largest models, and is kept for the next load of any model
of the same shape. Binding points its tensors at a buffer (`binding`), unbinding puts the meta
tensors back, so an evicted buffer can never be read through a stale module.
"""

from __future__ import annotations

import gc
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.weight_norm import WeightNorm

from quickthaw.snapshot.binding import Binding
from quickthaw.snapshot.build_limits import bounded_build
from quickthaw.snapshot.classes import Role, resolve
from quickthaw.snapshot.computed import compute_again
from quickthaw.snapshot.format import TENSORS_MAX, Header, Problem, invalid
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.quantize import install
from quickthaw.snapshot.tensors import Slot, slots, walk
from quickthaw.snapshot.uninitialised import no_init_weights

_build_lock = threading.Lock()


_keys: dict[int, tuple[Component, str]] = {}
"""By the identity of a component, which is kept beside its key lest another one gets it."""
_KEYS_MAX = 4096


def skeleton_key(component: Component) -> str:
    """Equal for components whose modules are interchangeable but for their weights."""
    known = _keys.get(id(component))
    if known is not None and known[0] is component:
        return known[1]
    shape = [component.class_path, component.attention, component.config]
    key = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
    if len(_keys) >= _KEYS_MAX:
        _keys.clear()
    _keys[id(component)] = (component, key)
    return key


class Shaped(Protocol):
    """A tensor, or what a header says of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Skeleton:
    """A module and the places of its tensors. Not thread-safe; owned by one holder at a time.

    It remembers the layout it was last checked against and prepared for (`fits`), so that weights
    in the same layout, such as a fine-tune's, cost nothing but the calls that point at them.
    """

    def __init__(self, key: str, module: nn.Module) -> None:
        self.key = key
        self.module = module
        self._slots: tuple[Slot, ...] = tuple(slots(module))
        self._empty = [slot.holder[slot.key] for slot in self._slots]
        self._binding: Binding | None = None
        self._checked: tuple[str, dict[str, str]] | None = None

    def fits(self, header_digest: str) -> bool:
        """Whether it is prepared for that layout already."""
        return self._checked is not None and self._checked[0] == header_digest

    def prepare(
        self,
        header: Header,
        aliases: Mapping[str, str],
        device: torch.device | None,
        where: str,
    ) -> None:
        """Checks a layout and makes the tensors for it, unless that was the last thing done.

        Without a device it only checks. Raises `SnapshotInvalid` before anything is changed.
        """
        layout = (header.digest, dict(aliases))
        if self._checked != layout:
            self.check({entry.name: entry for entry in header.tensors}, aliases, where)
            self._drop()
            self._checked = layout
        if device is None or (self._binding is not None and self._binding.device == device):
            return
        self._drop()
        self._binding = Binding(self._slots, header, aliases, device)

    def _drop(self) -> None:
        self.unbind()
        self._binding = None

    def bind(
        self, data: torch.Tensor, header: Header, aliases: Mapping[str, str], where: str
    ) -> None:
        """Gives every parameter and buffer its tensor in `data`; nothing may be missing or over.

        `data` is the component's data section, as for `Binding.bind`. Tied names get one Parameter
        object. If the tensors are there already, nothing is done but making sure. Raises
        `SnapshotInvalid` before anything is assigned.
        """
        self.prepare(header, aliases, data.device, where)
        binding = self._binding
        assert binding is not None, "it was prepared just now"
        if not binding.holds(data):
            binding.bind(data)

    def unbind(self) -> None:
        if self._binding is not None:
            self._binding.unbind(self._empty)

    def check(self, stored: Mapping[str, Shaped], aliases: Mapping[str, str], where: str) -> None:
        """Raises `SnapshotInvalid` unless names and shapes are exactly the module's.

        This is what makes sure that no tensor can stay on the meta device, which would draw wrong
        pictures in silence: every place of the module has a tensor in the file.
        """
        wanted = {slot.name for slot in self._slots}
        names = stored.keys() | aliases.keys()
        if missing := wanted - names:
            invalid(
                Problem.MISSING,
                where,
                f"the file lacks {len(missing)} tensors of the module, first {min(missing)!r}; "
                "a module with gaps would draw wrong pictures",
            )
        if extra := names - wanted:
            invalid(
                Problem.MANIFEST,
                where,
                f"the file has {len(extra)} tensors that the module lacks, first {min(extra)!r}",
            )
        for slot, empty in zip(self._slots, self._empty, strict=True):
            tensor = stored.get(aliases.get(slot.name, slot.name))
            assert empty is not None
            if tensor is None or tuple(tensor.shape) != tuple(empty.shape):
                shape = "nothing" if tensor is None else tuple(tensor.shape)
                invalid(
                    Problem.BAD_SHAPE,
                    where,
                    f"{slot.name} is {shape}, the module wants {tuple(empty.shape)}",
                )


def build(component: Component, tensors: int = TENSORS_MAX) -> nn.Module:
    """The module of `component`, all of its tensors on the meta device, in evaluation mode.

    `tensors`: how many the component has, tied ones too, if it is known. Raises `SnapshotInvalid`
    if the class does not accept the config, or makes far more of it.
    """
    kind = resolve(component.class_path, Role.MODEL)
    where = f"component {component.name}"
    # Switching initialisation off patches the libraries for the whole process.
    with _build_lock, no_garbage_collection():
        try:
            # transformers' switch covers torch.nn.init, so diffusers' modules as well.
            with (
                no_init_weights(),
                torch.device("meta"),
                bounded_build(tensors, where),
            ):
                module = _construct(kind, component)
        except Exception as error:
            invalid(
                Problem.MANIFEST,
                where,
                f"{component.class_path} does not accept the config: {error}",
            )
        install(module, component)
        parts = walk(module)
        compute_again(parts, where)
        _refuse_hidden_tensors(parts, where)
        for _, part in parts:
            # As `eval` does, but that takes a slow way through every module's __setattr__.
            vars(part)["training"] = False
    return module


@contextmanager
def building_alone() -> Iterator[None]:
    """For other libraries' ways of making modules, which patch them for the whole process too."""
    with _build_lock:
        yield


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For making what stays: looking through it again and again finds nothing."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _construct(kind: Any, component: Component) -> nn.Module:
    config = dict(component.config)
    if (config_class := getattr(kind, "config_class", None)) is None:
        module: nn.Module = kind(**config)
        return module
    settings = config_class.from_dict(config)
    settings._attn_implementation = component.attention
    transformer: nn.Module = kind(settings)
    return transformer


def _refuse_hidden_tensors(parts: Sequence[tuple[str, nn.Module]], where: str) -> None:
    """Tensors in plain attributes are in no file; left on meta they give wrong pictures."""
    is_tensor: dict[type, bool] = {}
    for name, part in parts:
        attributes = vars(part)
        for kind in set(map(type, attributes.values())):
            if kind not in is_tensor:
                is_tensor[kind] = issubclass(kind, torch.Tensor)
            if is_tensor[kind]:
                _refuse_meta(attributes, _computed(part), f"{where}, {name}")


def _refuse_meta(attributes: Mapping[str, object], computed: frozenset[str], where: str) -> None:
    for key, value in attributes.items():
        if isinstance(value, torch.Tensor) and value.is_meta and key not in computed:
            invalid(
                Problem.MANIFEST,
                where,
                f"{key} is a tensor outside parameters and buffers, which a snapshot cannot hold",
            )


def _computed(part: nn.Module) -> frozenset[str]:
    """Attributes made anew from stored tensors before each forward: weight normalisation's."""
    hooks = part._forward_pre_hooks.values()
    return frozenset(hook.name for hook in hooks if isinstance(hook, WeightNorm))
