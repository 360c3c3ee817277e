"""Files that are in the page cache, or are not: made so, and looked at."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from quickthaw.snapshot.copiers.cached import cached_fraction
from quickthaw.wire.errors import FailedPrecondition

COLD_FRACTION_MAX = 0.01
WARM_FRACTION_MIN = 0.99
DROP_TRIES = 20
WARM_TRIES = 5
DROP_PAUSE_SECONDS = 0.1
_READ_BYTES = 16 << 20


def drop(paths: Iterable[Path]) -> None:
    """Takes the files out of the page cache; raises `FailedPrecondition` if some of one stays."""
    for path in paths:
        left = _drop(path)
        for _ in range(DROP_TRIES):
            if left <= COLD_FRACTION_MAX:
                break
            time.sleep(DROP_PAUSE_SECONDS)  # pages that the kernel is busy with stay for a moment
            left = _drop(path)
        else:
            raise FailedPrecondition(
                f"{path}: {left:.0%} stays in the page cache, so cold would not be cold; some "
                "other process has it mapped, or its filesystem is memory: choose --folder on a "
                "disk"
            )


def _drop(path: Path) -> float:
    """The fraction that stays."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # only clean pages can be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return cached_fraction(descriptor, path.stat().st_size)
    finally:
        os.close(descriptor)


def warm(paths: Iterable[Path]) -> None:
    """Reads the files; raises `FailedPrecondition` if the page cache does not keep them."""
    for path in paths:
        held = _warm(path)
        for _ in range(WARM_TRIES):
            if held >= WARM_FRACTION_MIN:
                break
            held = _warm(path)  # a kernel that reclaims ahead of need may take some back at once
        else:
            raise FailedPrecondition(
                f"{path}: only {held:.0%} stays in the page cache; this machine has too little "
                "memory for the model, choose a smaller --scale"
            )


def _warm(path: Path) -> float:
    """The fraction that is there after reading it once."""
    block = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
        return cached_fraction(file.fileno(), path.stat().st_size)
