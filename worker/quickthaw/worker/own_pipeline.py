"""What one request has of a pipeline for itself, and what it must leave as it found it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import secrets
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from quickthaw.worker.ahead import Answers

SEED_BITS = 32
"""Of a seed that nobody named: JavaScript loses digits of numbers beyond 53 bits, and a caller is
to be able to send back what it was told."""
_SEED_MODULUS = 1 << 64

encode_lock = threading.RLock()
"""Tokenizers keep truncation and padding as state and are shared between models of one process."""


def own_pipeline(pipe: Any, answers: Answers | None = None) -> Any:
    """A copy for one request: the same modules, its own scheduler and attributes.

    `answers`: what its `encode_prompt` has answered before.

    Schedulers count steps, so two requests on one scheduler draw each other's pictures.
    """
    clone = copy.copy(pipe)
    scheduler = pipe.scheduler
    settings = {name: value for name, value in scheduler.config.items() if name[0] != "_"}
    clone.scheduler = type(scheduler)(**settings)
    clone.set_progress_bar_config(disable=True)
    encode = getattr(clone, "encode_prompt", None)
    if encode is None:
        return clone  # What is made without a text.

    def encode_alone(*args: Any, **kwargs: Any) -> Any:
        with encode_lock:
            return (answers or Answers()).ask(encode, *args, **kwargs)

    clone.encode_prompt = encode_alone
    return clone


def pipeline_over(pipe: Any, name: str) -> Any:
    """The same components in another of diffusers' pipeline classes; `pipe` itself without a name.

    What both are told beside their parts is told again.
    """
    if name in ("", type(pipe).__name__):
        return pipe
    import diffusers

    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    told = {key: value for key, value in pipe.config.items() if key[0] != "_"}
    parts = {**told, **pipe.components}
    return kind(**{key: value for key, value in parts.items() if key in known})


@contextlib.contextmanager
def weights_kept(module: Any) -> Iterator[None]:
    """Puts a module's tensors back afterwards.

    SDXL's pipeline casts a half-precision VAE up and down in every call, which would move its
    weights off the snapshot's buffer into memory that nobody accounts for.
    """
    kept = [
        (slots, name, tensor, tensor.data)
        for part in module.modules()
        for slots in (part._parameters, part._buffers)
        for name, tensor in slots.items()
        if tensor is not None
    ]
    try:
        yield
    finally:
        # A cast gives parameters other data and replaces buffers altogether.
        for slots, name, tensor, data in kept:
            tensor.data = data
            slots[name] = tensor


def vae_kept(pipe: Any) -> AbstractContextManager[None]:
    """`weights_kept` of a VAE that its pipeline may cast."""
    upcasts = bool(getattr(pipe.vae.config, "force_upcast", False))
    return weights_kept(pipe.vae) if upcasts else contextlib.nullcontext()


def seed_of(seed: int | None) -> int:
    """The request's, or one drawn for it."""
    return seed if seed is not None else secrets.randbits(SEED_BITS)


def generators_of(seed: int, images: int) -> list[torch.Generator]:
    """One for each image; on the CPU whatever the device is."""
    return [
        torch.Generator("cpu").manual_seed((seed + index) % _SEED_MODULUS)
        for index in range(images)
    ]
