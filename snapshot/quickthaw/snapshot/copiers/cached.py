"""How much of a file the page cache holds, as the kernel tells."""

from __future__ import annotations

import ctypes
import mmap

SAMPLES = 64
SAMPLE_BYTES = 256 * 1024
"""Asking about each page takes 4 ms a GB, in which nothing is read yet: a tenth of what a load
from the page cache takes in all."""
_CACHESTAT = 451  # the same number on every architecture since Linux 6.5
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def cached_fraction(descriptor: int, file_bytes: int, *, sampled: bool = False) -> float:
    """How much of a file is in the page cache, 0 to 1; 1 where the kernel does not say.

    `sampled`: of a large file, what windows tell that lie evenly over it, from its first page to
    its end.
    """
    windows = _windows(file_bytes) if sampled else [(0, file_bytes)]
    cached_pages = asked_pages = 0
    for start, nbytes in windows:
        if (pages := _cached_pages(descriptor, start, nbytes)) is None:
            return _resident_fraction(descriptor, file_bytes, -(-file_bytes // mmap.PAGESIZE))
        cached_pages += pages
        asked_pages += -(-nbytes // mmap.PAGESIZE)
    return cached_pages / asked_pages if asked_pages else 1.0


def _windows(file_bytes: int) -> list[tuple[int, int]]:
    """What to ask about: all of a file, or its samples, each beginning on a page."""
    if file_bytes <= SAMPLES * SAMPLE_BYTES:
        return [(0, file_bytes)]
    last = file_bytes - SAMPLE_BYTES
    starts = (last * each // (SAMPLES - 1) for each in range(SAMPLES))
    return [(start - start % mmap.PAGESIZE, SAMPLE_BYTES) for start in starts]


def _cached_pages(descriptor: int, start: int, nbytes: int) -> int | None:
    """None where the kernel has no cachestat."""
    wanted, found = _Range(start, nbytes), _CacheStat()
    code = _libc.syscall(
        ctypes.c_long(_CACHESTAT),
        ctypes.c_int(descriptor),
        ctypes.byref(wanted),
        ctypes.byref(found),
        ctypes.c_uint(0),
    )
    return int(found.cached) if code == 0 else None


def _resident_fraction(descriptor: int, file_bytes: int, pages: int) -> float:
    """The same by `mincore`, for kernels before 6.5."""
    try:
        # mincore needs an address, and only a writable mapping gives one to Python.
        mapping = mmap.mmap(
            descriptor, file_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    except OSError:
        return 1.0
    vector = (ctypes.c_ubyte * pages)()
    anchor = ctypes.c_char.from_buffer(mapping)
    code = _libc.mincore(ctypes.addressof(anchor), file_bytes, vector)
    del anchor
    mapping.close()
    return sum(each & 1 for each in vector) / pages if code == 0 else 1.0
