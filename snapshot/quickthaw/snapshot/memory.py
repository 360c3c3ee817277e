"""Plain memory for weights: anonymous, in huge pages where the kernel gives them, touched once.

Fresh memory costs up to a second a gigabyte at its first touch, several times what reading into
it takes, so whoever loads models maps and touches it once and keeps it.
"""

from __future__ import annotations

import ctypes
import mmap
from concurrent.futures import ThreadPoolExecutor

from quickthaw.wire.errors import ResourceExhausted

PAGE_BYTES = mmap.PAGESIZE
_MADV_POPULATE_WRITE = 23  # Linux 5.14; not in the mmap module
_TOUCH_BYTES = 64 * 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Memory:
    """A private mapping of `nbytes` (rounded up to pages), given back when nothing refers to it."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = max(round_up(nbytes, PAGE_BYTES), PAGE_BYTES)
        try:
            mapping = mmap.mmap(-1, self.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError) as error:
            raise ResourceExhausted(
                f"this machine does not give {self.nbytes} bytes of memory: {error}",
                metadata={"resource": "memory"},
            ) from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(mapping)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))

    def touch(self, threads: int) -> None:
        """Makes every page real now. Releases the GIL."""
        starts = range(0, self.nbytes, _TOUCH_BYTES)
        with ThreadPoolExecutor(threads, thread_name_prefix="touch") as pool:
            list(pool.map(self._touch_part, starts))

    def _touch_part(self, start: int) -> None:
        size = min(_TOUCH_BYTES, self.nbytes - start)
        if _libc.madvise(self.address + start, size, _MADV_POPULATE_WRITE) != 0:
            # An older kernel; writing is the same thing, slower.
            ctypes.memset(self.address + start, 0, size)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
