"""What a worker imports before its first request, in parts. It takes seconds, all in all."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from quickthaw.worker.families import NOOP, adapter
from quickthaw.worker.version import product_version

_OURS = (
    "quickthaw.snapshot.prewarm",
    "quickthaw.worker.compiling",
    "quickthaw.worker.making",
    "quickthaw.worker.models",
)
_POOL_THREADS = "OPENBLAS_NUM_THREADS"


def import_light() -> Iterator[str]:
    """What every worker needs, whatever it runs."""
    for module in ("grpc.aio", "uvloop", "quickthaw.worker.life"):
        importlib.import_module(module)
        yield module
    product_version()  # reads the installation's metadata, once


def import_families(families: tuple[str, ...]) -> Iterator[str]:
    """Torch, the libraries and pipelines of these families, and what of ours is built upon them."""
    if not set(families) - {NOOP}:
        return
    with _one_thread():
        importlib.import_module("numpy")
        # Two schedulers use it where it is installed; it has an OpenBLAS of its own.
        _import_if_there("scipy.integrate")
    yield "numpy"
    for module in ("torch", "transformers", "diffusers"):
        importlib.import_module(module)
        yield module
    # Both write warnings of their own to stderr, about optional libraries and about prompts.
    importlib.import_module("diffusers.utils.logging").set_verbosity_error()
    importlib.import_module("transformers.utils.logging").set_verbosity_error()
    # Pipelines make a bar even if it is not shown, the first of which starts a thread to watch it.
    importlib.import_module("tqdm").tqdm.monitor_interval = 0
    known = importlib.import_module("quickthaw.snapshot.families").FAMILIES
    for family in families:
        if family in known:
            # What a first request would otherwise import while its caller waits.
            name = known[family].pipeline_classes[0].rpartition(".")[2]
            getattr(importlib.import_module("diffusers"), name)
            adapter(family)
            yield name
    for module in _OURS:
        importlib.import_module(module)
        yield module
    _import_if_there("av")
    yield "av"


def _import_if_there(module: str) -> None:
    with suppress(ImportError):
        importlib.import_module(module)


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenBLAS starts its threads when imported, and a host must have none.

    Pictures need no linear algebra of numpy. Torch, which may have an OpenBLAS too, is imported
    with the environment as it was.
    """
    before = os.environ.get(_POOL_THREADS)
    os.environ[_POOL_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_POOL_THREADS]
        else:
            os.environ[_POOL_THREADS] = before
