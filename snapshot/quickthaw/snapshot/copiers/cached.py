"""How much of a file the page cache holds, as the kernel tells."""

from __future__ import annotations

import ctypes
import mmap

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


def cached_fraction(descriptor: int, file_bytes: int) -> float:
    """How much of a file is in the page cache, 0 to 1; 1 where the kernel does not say."""
    wanted, found = _Range(0, file_bytes), _CacheStat()
    code = _libc.syscall(
        ctypes.c_long(_CACHESTAT),
        ctypes.c_int(descriptor),
        ctypes.byref(wanted),
        ctypes.byref(found),
        ctypes.c_uint(0),
    )
    pages = -(-file_bytes // mmap.PAGESIZE)
    if code == 0:
        return int(found.cached) / pages
    return _resident_fraction(descriptor, file_bytes, pages)


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
