"""Reading through the page cache: right for files that are in it, and for every filesystem."""

from __future__ import annotations

import os

from quickthaw.snapshot.tiers import Tier


class PageCacheSource:
    """Owns `descriptor`; the data begins at `data_start`."""

    name = "page_cache"
    tier = Tier.DISK
    span_bytes = 2 * 1024 * 1024
    """What is copied is still in the last-level cache when it is hashed. Smaller steps would be in
    the core's own, but each hands the interpreter's lock over twice, which costs a third more."""

    def __init__(self, descriptor: int, data_start: int, why: str) -> None:
        self.why = why
        self.readers = len(os.sched_getaffinity(0))  # copying is work, not waiting
        self._descriptor = descriptor
        self._data_start = data_start

    def read_into(self, start: int, target: memoryview, nbytes: int) -> int:
        offset = self._data_start + start
        done = 0
        while done < nbytes:
            count = os.preadv(self._descriptor, [target[done:nbytes]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def close(self) -> None:
        os.close(self._descriptor)
