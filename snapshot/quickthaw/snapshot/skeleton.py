"""Modules without weights: built from their config alone, then given views of a buffer.

A skeleton is built on the meta device with all initialisation off, which takes tens of
milliseconds and a few megabytes for the largest models, and is kept for the next load of any model
of the same shape. Binding assigns tensors straight into the module's own dictionaries, unbinding
puts the meta tensors back, so an evicted buffer can never be read through a stale module.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.initialization import no_init_weights

from quickthaw.snapshot.classes import Role, resolve
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.tensors import Slot, slots

IDLE_MAX = 2
"""Unbound skeletons kept per shape; two pipelines of one shape may be loaded side by side."""

_build_lock = threading.Lock()


def skeleton_key(component: Component) -> str:
    """Equal for components whose modules are interchangeable but for their weights."""
    shape = [component.class_path, component.attention, component.config]
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


class Skeleton:
    """A module and the places of its tensors. Not thread-safe; owned by one holder at a time."""

    def __init__(self, key: str, module: nn.Module) -> None:
        self.key = key
        self.module = module
        self._slots: tuple[Slot, ...] = tuple(slots(module))
        self._empty = [slot.holder[slot.key] for slot in self._slots]

    def bind(
        self, tensors: Mapping[str, torch.Tensor], aliases: Mapping[str, str], where: str
    ) -> None:
        """Gives every parameter and buffer its tensor; nothing may be missing or left over.

        Tied names get one Parameter object. Raises `SnapshotInvalid` before anything is assigned.
        """
        self.check(tensors, aliases, where)
        parameters: dict[str, nn.Parameter] = {}
        for slot in self._slots:
            name = aliases.get(slot.name, slot.name)
            if not slot.is_parameter:
                slot.holder[slot.key] = tensors[name]
                continue
            if (parameter := parameters.get(name)) is None:
                parameter = parameters[name] = nn.Parameter(tensors[name], requires_grad=False)
            slot.holder[slot.key] = parameter

    def unbind(self) -> None:
        for slot, empty in zip(self._slots, self._empty, strict=True):
            slot.holder[slot.key] = empty

    def check(
        self, tensors: Mapping[str, torch.Tensor], aliases: Mapping[str, str], where: str
    ) -> None:
        """Raises `SnapshotInvalid` unless names and shapes are exactly the module's."""
        wanted = {slot.name for slot in self._slots}
        stored = tensors.keys() | aliases.keys()
        if missing := wanted - stored:
            invalid(
                Problem.MISSING,
                where,
                f"the file lacks {len(missing)} tensors of the module, first {min(missing)!r}; "
                "a module with gaps would draw wrong pictures",
            )
        if extra := stored - wanted:
            invalid(
                Problem.MANIFEST,
                where,
                f"the file has {len(extra)} tensors that the module lacks, first {min(extra)!r}",
            )
        for slot, empty in zip(self._slots, self._empty, strict=True):
            tensor = tensors.get(aliases.get(slot.name, slot.name))
            assert empty is not None
            if tensor is None or tensor.shape != empty.shape or tensor.is_meta:
                shape = "nothing" if tensor is None else tuple(tensor.shape)
                invalid(
                    Problem.BAD_SHAPE,
                    where,
                    f"{slot.name} is {shape}, the module wants {tuple(empty.shape)}",
                )


class SkeletonPool:
    """Idle skeletons by key. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: defaultdict[str, list[Skeleton]] = defaultdict(list)

    def take(self, component: Component) -> Skeleton:
        """An unbound skeleton for `component`, built now if none is idle."""
        key = skeleton_key(component)
        with self._lock:
            if idle := self._idle[key]:
                return idle.pop()
        return Skeleton(key, build(component))

    def put(self, skeleton: Skeleton) -> None:
        """Unbinds a skeleton and keeps it for later, or drops it if enough are idle."""
        skeleton.unbind()
        with self._lock:
            if len(self._idle[skeleton.key]) < IDLE_MAX:
                self._idle[skeleton.key].append(skeleton)

    def prepare(self, component: Component) -> None:
        """Makes the next `take` immediate."""
        with self._lock:
            if self._idle[skeleton_key(component)]:
                return
        self.put(Skeleton(skeleton_key(component), build(component)))


def build(component: Component) -> nn.Module:
    """The module of `component`, all of its tensors on the meta device, in evaluation mode.

    Raises `SnapshotInvalid` if the class does not accept the config.
    """
    kind = resolve(component.class_path, Role.MODEL)
    where = f"component {component.name}"
    # Switching initialisation off patches the libraries for the whole process.
    with _build_lock:
        try:
            # transformers' switch covers torch.nn.init, so diffusers' modules as well.
            with no_init_weights(), torch.device("meta"):
                module = _construct(kind, component)
        except Exception as error:
            invalid(
                Problem.MANIFEST,
                where,
                f"{component.class_path} does not accept the config: {error}",
            )
    _refuse_hidden_tensors(module, where)
    return module.eval()


def _construct(kind: Any, component: Component) -> nn.Module:
    config = dict(component.config)
    if (config_class := getattr(kind, "config_class", None)) is None:
        module: nn.Module = kind(**config)
        return module
    settings = config_class.from_dict(config)
    settings._attn_implementation = component.attention
    transformer: nn.Module = kind(settings)
    return transformer


def _refuse_hidden_tensors(module: nn.Module, where: str) -> None:
    """Tensors in plain attributes are in no file; left on meta they give wrong pictures."""
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, torch.Tensor) and value.is_meta:
                invalid(
                    Problem.MANIFEST,
                    where,
                    f"{name}.{key} is a tensor outside parameters and buffers, which a snapshot "
                    "cannot hold",
                )
