"""Faults that a process cannot get over: a device's context that is broken for good.

An illegal access, a failed assertion or an uncorrectable memory error ends a CUDA context: every
later call of this process fails with the same error, whatever it asks for, while the next process
finds the device in order. So the worker ends at once, and tells nobody that its attempts failed:
they are lost, and tried again, like those of a worker that was killed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from quickthaw.wire.errors import QuickthawError

logger = logging.getLogger(__name__)

EXIT_DEVICE_FAULT = 3
"""Of a worker that can only be cured by a new process."""

# Of cudaError_t and CUresult, which agree here: those after which the context must be destroyed,
# as cuda.h says of each (13.0). 221, between them, is a compiler that is not installed.
_STICKY_CODES = frozenset(
    {214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810}
)
_STICKY_WORDS = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "not supported on global/shared address space",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "launch timed out",
    "hardware stack error",
)


def is_device_fault(error: BaseException | None) -> bool:
    """Whether this error, or one that it comes from, says that the device's context is broken.

    torch raises `AcceleratorError` with CUDA's number; libraries upon it raise RuntimeError with
    CUDA's words.
    """
    while error is not None:
        if getattr(error, "error_code", None) in _STICKY_CODES:
            return True
        if isinstance(error, RuntimeError) and any(
            word in str(error).lower() for word in _STICKY_WORDS
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def ending_at_faults(on_fault: Callable[[BaseException], None]) -> Iterator[None]:
    """Calls `on_fault` with what shows that the device is lost, and raises it if that returns."""
    try:
        yield
    except Exception as error:
        if (fault := _fault_behind(error)) is not None:
            on_fault(fault)
        raise


def _fault_behind(error: Exception) -> Exception | None:
    if is_device_fault(error):
        return error
    torch = sys.modules.get("torch")
    if isinstance(error, QuickthawError) or torch is None or not torch.cuda.is_initialized():
        return None
    # Libraries wrap what they got in words of their own; a broken context fails again.
    try:
        for index in range(torch.cuda.device_count()):
            # The worker's own need not be this thread's current one, and asking another would make
            # a context there, in memory that its own worker counts upon.
            if torch.cuda.memory_reserved(index):
                torch.cuda.synchronize(index)
    except Exception as again:
        return again if is_device_fault(again) else None
    return None


def end_process(error: BaseException) -> NoReturn:
    """At once: cleaning up would call a device that answers nothing any more."""
    logger.critical("the device is lost to this process, which ends: %s", error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(EXIT_DEVICE_FAULT)
