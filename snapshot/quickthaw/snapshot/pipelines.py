"""Pipeline objects from parts that are there: a call of the pipeline's class, checked before."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from quickthaw.snapshot.classes import Role, resolve
from quickthaw.snapshot.families import family_named
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.manifest import Manifest
from quickthaw.snapshot.processors import build_scheduler

_DEVICE = "_quickthaw_device"


@dataclass(frozen=True, slots=True)
class _Constructor:
    names: frozenset[str]
    required: tuple[str, ...]


@functools.cache
def _constructor(kind: Any) -> _Constructor:
    """What a pipeline class takes; finding out takes longer than making a pipeline."""
    parameters = dict(inspect.signature(kind.__init__).parameters)
    del parameters["self"]
    required = tuple(
        name for name, each in parameters.items() if each.default is inspect.Parameter.empty
    )
    return _Constructor(frozenset(parameters), required)


def learn(pipeline_class: str) -> None:
    """Imports a pipeline class and finds out what it takes, ahead of the first `build_pipeline`."""
    _constructor(resolve(pipeline_class, Role.PIPELINE))


def build_pipeline(
    manifest: Manifest, modules: Mapping[str, Any], processors: Mapping[str, Any]
) -> Any:
    """A pipeline of its own over shared modules and processors, with schedulers of its own.

    By the class itself, as `from_pipe` would cast the modules that are shared. Raises
    `SnapshotInvalid` for parts that the class has not got.
    """
    kind = resolve(manifest.pipeline_class, Role.PIPELINE)
    takes = _constructor(kind)
    # What a class must be given and this model goes without is None.
    parts: dict[str, Any] = dict.fromkeys(takes.required)
    parts |= {**modules, **processors, **manifest.pipeline_arguments}
    parts |= {each.name: build_scheduler(each) for each in manifest.schedulers}
    chat = family_named(manifest.family).chat
    if chat is not None and parts["tokenizer"] is not None:
        # A template is code. What a model brought as its own was compared with it when packing. On
        # a copy that shares the vocabulary: other families frame prompts for the same tokenizer.
        parts["tokenizer"] = copy.copy(parts["tokenizer"])
        parts["tokenizer"].chat_template = chat.template
    if extra := parts.keys() - takes.names:
        invalid(
            Problem.MANIFEST,
            f"snapshot of {manifest.title or manifest.family}",
            f"{manifest.pipeline_class} has no part named {min(extra)!r}",
        )
    try:
        pipeline = _placed(kind)(**parts)
    except Exception as error:
        invalid(
            Problem.MANIFEST,
            f"snapshot of {manifest.title or manifest.family}",
            f"{manifest.pipeline_class} does not accept its parts: {error}",
        )
    vars(pipeline)[_DEVICE] = next(
        tensor.device for module in modules.values() for tensor in module.parameters()
    )
    return pipeline


@functools.cache
def _placed(kind: Any) -> Any:
    """The same class, told where its modules are.

    Its own way to find out goes through every module of every component, which takes ten
    milliseconds of each request to a large model, to find hooks for offloading that are not there.
    """

    def where(self: Any) -> torch.device:
        device: torch.device = vars(self)[_DEVICE]
        return device

    told = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**told, "_execution_device": property(where)})
