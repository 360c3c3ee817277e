"""Everything that can be done before the first load, off its way: at a worker's start, or before.

A process that forks workers does it once for all of them. So nothing here starts a thread, touches
a GPU or leaves a lock held, none of which survives a fork; what is made is inherited as it is.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional

from quickthaw.snapshot.classes import ALLOWED, Role, resolve
from quickthaw.snapshot.families import family_named
from quickthaw.snapshot.pipelines import learn
from quickthaw.snapshot.prepared import Prepared
from quickthaw.snapshot.skeleton_pool import IDLE_MAX
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.wire.errors import QuickthawError

logger = logging.getLogger(__name__)

SNAPSHOTS_MAX = 64
"""How many snapshots are prepared; each shape takes some megabytes, each tokenizer about twenty."""
_LIBRARIES = ("diffusers", "transformers")


def prewarm(
    store: SnapshotStore,
    families: Iterable[str],
    *,
    snapshots: Iterable[str] = (),
    device: torch.device | None = None,
    snapshots_max: int = SNAPSHOTS_MAX,
) -> Prepared:
    """All of `prewarming` at once, for `Loader(prepared=...)`."""
    prepared = Prepared(store)
    for _ in prewarming(
        prepared, families, snapshots=snapshots, device=device, snapshots_max=snapshots_max
    ):
        pass
    return prepared


def prewarming(
    prepared: Prepared,
    families: Iterable[str],
    *,
    snapshots: Iterable[str] = (),
    device: torch.device | None = None,
    snapshots_max: int = SNAPSHOTS_MAX,
) -> Iterator[str]:
    """Imports what `families` run with and prepares snapshots of the store, in small steps.

    Says after each step what it was; what is done already takes no time. `snapshots` (digests) come
    first, then the others of these families, up to `snapshots_max`; one that cannot be prepared is
    logged and passed over, since a load of it says the same. `device` is where they will run, as
    far as tensors for it can be made in this process: leave it out in a process that must not touch
    its GPU. Raises `SnapshotInvalid` for an unknown family.
    """
    wanted = {family_named(name).name: family_named(name) for name in families}
    for name, family in wanted.items():
        with _quiet():
            for path in family.pipeline_classes:
                learn(path)
        yield name
    for path, role in ALLOWED.items():
        if role is Role.SCHEDULER:
            resolve(path, role)
    yield "schedulers"
    for digest in itertools.islice(_chosen(prepared, set(wanted), snapshots), snapshots_max):
        with _one_thread(), _quiet():
            try:
                prepared.ready(digest, device, skeletons=IDLE_MAX)
            except Exception as error:  # what disks and libraries raise has no list
                logger.warning("cannot prepare %s: %s", digest[:12], error)
        yield digest
    with _one_thread():
        warm_kernels(torch.device("cpu"), (torch.float32, torch.bfloat16))
    yield "kernels"


def _chosen(prepared: Prepared, families: set[str], first: Iterable[str]) -> Iterator[str]:
    told = list(dict.fromkeys(first))
    yield from told
    for digest in prepared.store:
        if digest not in told:
            try:
                family = prepared.open(digest).manifest.family
            except (QuickthawError, OSError) as error:
                logger.warning("cannot open %s: %s", digest[:12], error)
                continue
            if family in families:
                yield digest


def warm_kernels(device: torch.device, dtypes: Iterable[torch.dtype]) -> None:
    """Runs each kind of operation that the families use on next to nothing; once in a process.

    What a library does at its first call (handles, workspaces, loading of kernels) is done then:
    tens of milliseconds on a CPU, and more on a GPU, where it belongs after a fork. Does nothing
    for dtypes that the device cannot compute with.
    """
    for dtype in dtypes:
        _warm(device, dtype)


@functools.cache
def _warm(device: torch.device, dtype: torch.dtype) -> None:
    try:
        with torch.inference_mode():
            _every_kind(device, dtype)
    except RuntimeError as error:
        logger.info("%s has no kernels for %s: %s", device, dtype, error)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _every_kind(device: torch.device, dtype: torch.dtype) -> None:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device, dtype=dtype)

    picture = functional.conv2d(zeros(1, 8, 8, 8), zeros(8, 8, 3, 3), zeros(8), padding=1)
    picture = functional.silu(functional.group_norm(picture, 4, zeros(8), zeros(8)))
    functional.conv2d(
        functional.interpolate(picture, scale_factor=2.0, mode="nearest"), zeros(8, 8, 1, 1)
    )
    words = functional.embedding(
        torch.zeros((1, 16), device=device, dtype=torch.long), zeros(64, 64)
    )
    words = functional.layer_norm(
        functional.linear(words, zeros(64, 64), zeros(64)), (64,), zeros(64), zeros(64)
    )
    words = functional.gelu(words) * functional.gelu(words, approximate="tanh")
    heads = words.view(1, 16, 4, 16).transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(heads, heads, heads)
    torch.softmax(torch.cat([mixed, heads], dim=-1) @ zeros(32, 32), dim=-1).mean().item()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch's own threads are started by the first operation that uses several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries tell stderr which optional packages they go without, at their import."""
    with ExitStack() as restored:
        for library in _LIBRARIES:
            settings: Any = importlib.import_module(f"{library}.utils.logging")
            restored.callback(settings.set_verbosity, settings.get_verbosity())
            settings.set_verbosity_error()
        yield
