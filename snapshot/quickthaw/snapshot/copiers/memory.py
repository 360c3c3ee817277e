"""Bytes that are in this host's memory already: the base of a delta, resident for its own sake."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from quickthaw.snapshot.tiers import Tier

_SPAN_BYTES = 16 * 1024 * 1024


class MemorySource:
    """Reads from `view`; `release` is called once, when the memory is no longer needed."""

    span_bytes = _SPAN_BYTES

    def __init__(self, tier: Tier, view: memoryview, release: Callable[[], None]) -> None:
        self.name = tier.value
        self.tier = tier
        self.why = "it is in host memory"
        self.readers = len(os.sched_getaffinity(0))
        self._view = view
        self._release = release

    def read_into(self, start: int, target: memoryview, nbytes: int) -> int:
        count = min(nbytes, self._view.nbytes - start)
        if count <= 0:
            return 0
        # memoryview's own assignment holds the GIL.
        ctypes.memmove(_address(target), _address(self._view) + start, count)
        return count

    def close(self) -> None:
        self._view = memoryview(b"")
        self._release()


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
