"""Choosing an I/O path per file: by what the page cache holds of it and what its filesystem can."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from quickthaw.snapshot.copiers.base import Copier
from quickthaw.snapshot.copiers.direct import DirectCopier
from quickthaw.snapshot.copiers.pread import PageCacheCopier

SMALL_BYTES = 1024 * 1024
"""Below this the choice costs more than it can gain."""
CACHED_FRACTION = 0.5
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


def choose(path: Path, file_bytes: int) -> Copier:
    """The copier for `path` now. Never raises: what cannot be found out means the page cache."""
    if file_bytes <= SMALL_BYTES:
        return PageCacheCopier()
    direct = DirectCopier()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | direct.open_flags)
    except OSError:
        return PageCacheCopier()  # tmpfs and some network filesystems
    try:
        warm = cached_fraction(descriptor, file_bytes) >= CACHED_FRACTION
        return PageCacheCopier() if warm else direct
    finally:
        os.close(descriptor)


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
