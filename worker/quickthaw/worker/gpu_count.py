"""Counting GPUs in a process that must not ask CUDA, because its children are to use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

_DEVICES = Path("/dev")


def count_without_cuda() -> Callable[[], None]:
    """Lets torch count the GPUs' files where NVML cannot tell: in a container without NVML, and
    where parts of a GPU (MIG) are what is visible. Returns what undoes it, for the children.

    Libraries ask at their import whether there is a GPU. torch would ask CUDA then, which a process
    that is forked from one that did cannot use.
    """
    import torch

    cuda: Any = torch.cuda
    told: Callable[[], int] = cuda._device_count_nvml

    def count() -> int:
        found = told()
        return found if found >= 0 else len(list(_DEVICES.glob("nvidia[0-9]*")))

    def undo() -> None:
        cuda._device_count_nvml = told

    cuda._device_count_nvml = count
    return undo
