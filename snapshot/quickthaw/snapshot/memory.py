"""Host memory for weights: in huge pages where the kernel gives them, touched once.

Fresh memory costs up to a second a gigabyte at its first touch, several times what reading into
it takes, so whoever loads models maps and touches it once and keeps it. Huge pages matter as much:
a direct read into pages of 4 KiB takes 1.2 to 1.8 times as long as into pages of 2 MiB.

Memory is anonymous, or it is that of a descriptor (a memfd), which another process can keep alive.
Shared memory gets huge pages by MADV_COLLAPSE (Linux 6.1), which asks neither for rights nor for a
system setting, so a memfd costs nothing against anonymous memory. Where the kernel has no
MADV_COLLAPSE, `/sys/kernel/mm/transparent_hugepage/shmem_enabled` decides.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quickthaw.wire.errors import ResourceExhausted

logger = logging.getLogger(__name__)

PAGE_BYTES = mmap.PAGESIZE
HUGE_BYTES = 2 * 1024 * 1024
_TOUCH_BYTES = 16 * HUGE_BYTES
_HUGE_ENOUGH = 0.9
# Not in the mmap module; the last two since Linux 5.14 and 6.1.
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE, _MADV_COLLAPSE = 22, 23, 25
_FAILED = ctypes.c_void_p(-1).value
_HUGE_LINES = ("AnonHugePages:", "ShmemPmdMapped:", "Private_Hugetlb:", "Shared_Hugetlb:")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Memory:
    """A mapping of `nbytes` (rounded up to pages), given back when nothing refers to it.

    `descriptor`: of a memfd or a file on tmpfs, whose first bytes the mapping then shares; it is
    made `nbytes` long, and stays the caller's to close. Raises `ResourceExhausted` if the machine
    does not give that much.
    """

    def __init__(self, nbytes: int, *, descriptor: int | None = None) -> None:
        self.nbytes = max(round_up(nbytes, PAGE_BYTES), PAGE_BYTES)
        self.shared = descriptor is not None
        self.fresh = True
        """Whether nobody has had this memory before."""
        try:
            if descriptor is not None:
                self.fresh = os.fstat(descriptor).st_size != self.nbytes
                if self.fresh:
                    os.ftruncate(descriptor, self.nbytes)
            self.address = _map(self.nbytes, descriptor)
        except (OSError, ValueError, OverflowError, ctypes.ArgumentError) as error:
            raise ResourceExhausted(
                f"this machine does not give {self.nbytes} bytes of memory: {error}",
                metadata={"resource": "memory"},
            ) from error
        self.view = _view(self.address, self.nbytes)
        _libc.madvise(self.address, self.nbytes, mmap.MADV_HUGEPAGE)

    @classmethod
    def of_file(cls, descriptor: int, offset: int, nbytes: int, *, private: bool) -> Memory:
        """A file's bytes from `offset` on, a multiple of pages, without reading them.

        `private`: writing changes this mapping alone, never the file; the descriptor may be
        read-only then. Raises `OSError` where the file cannot be mapped so.
        """
        memory = cls.__new__(cls)
        memory.nbytes = max(round_up(nbytes, PAGE_BYTES), PAGE_BYTES)
        memory.shared = not private
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        kind = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        memory.address = _checked_map(None, memory.nbytes, protection, kind, descriptor, offset)
        memory.view = _view(memory.address, memory.nbytes)
        return memory

    def touch(self, threads: int) -> None:
        """Makes every page real now, keeping what shared memory holds. Releases the GIL."""
        starts = range(0, self.nbytes, _TOUCH_BYTES)
        with ThreadPoolExecutor(threads, thread_name_prefix="touch") as pool:
            list(pool.map(self._touch_part, starts))

    def _touch_part(self, start: int) -> None:
        size = min(_TOUCH_BYTES, self.nbytes - start)
        if self.shared:
            # One page of each huge one must be there, or there is nothing to collapse.
            for place in range(start, start + size, HUGE_BYTES):
                _libc.madvise(self.address + place, PAGE_BYTES, _MADV_POPULATE_READ)
            _libc.madvise(self.address + start, size, _MADV_COLLAPSE)
        if _libc.madvise(self.address + start, size, _MADV_POPULATE_WRITE) != 0:
            # An older kernel; writing what is there is the same thing, slower.
            for place in range(start, start + size, PAGE_BYTES):
                self.view[place] = self.view[place]

    def huge_fraction(self) -> float:
        """How much of the memory is really in huge pages, 0 to 1, as the kernel tells."""
        huge_bytes, inside = 0, False
        for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
            first, *rest = line.split()
            if "-" in first:
                begin, end = (int(each, 16) for each in first.split("-"))
                inside = begin < self.address + self.nbytes and self.address < end
            elif inside and first in _HUGE_LINES:
                huge_bytes += int(rest[0]) * 1024
        return min(1.0, huge_bytes / self.nbytes)

    def report_pages(self, what: str) -> float:
        """Logs how much of touched memory is in huge pages, and what to set if that is too little;
        returns the fraction."""
        fraction = self.huge_fraction()
        told = f"{what}: {self.nbytes >> 20} MiB, {fraction:.0%} of it in huge pages"
        whole_bytes = self.nbytes // HUGE_BYTES * HUGE_BYTES
        if fraction * self.nbytes >= _HUGE_ENOUGH * whole_bytes:
            logger.info("%s", told)
            return fraction
        name, value = ("shmem_enabled", "advise") if self.shared else ("enabled", "madvise")
        logger.warning(
            "%s; reads from disk will be up to 1.8 times slower. Set %s in "
            "/sys/kernel/mm/transparent_hugepage/%s, or free memory, and start again",
            told,
            value,
            name,
        )
        return fraction


def _map(nbytes: int, descriptor: int | None) -> int:
    """Where a new mapping begins: on a huge page's boundary, or the kernel gives small ones."""
    reserved = nbytes + HUGE_BYTES
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = _checked_map(None, reserved, 0, anonymous | _MAP_NORESERVE, -1)
    place = round_up(start, HUGE_BYTES)
    kind = (anonymous, -1) if descriptor is None else (mmap.MAP_SHARED, descriptor)
    try:
        writable = mmap.PROT_READ | mmap.PROT_WRITE
        _checked_map(place, nbytes, writable, kind[0] | _MAP_FIXED, kind[1])
    except OSError:
        _libc.munmap(start, reserved)
        raise
    if place > start:
        _libc.munmap(start, place - start)
    _libc.munmap(place + nbytes, start + reserved - place - nbytes)
    return place


def _view(address: int, nbytes: int) -> memoryview:
    """The bytes of a mapping, which goes when the last view of it does."""
    content = (ctypes.c_ubyte * nbytes).from_address(address)
    weakref.finalize(content, _libc.munmap, address, nbytes).atexit = False
    return memoryview(content).cast("B")


def _checked_map(
    place: int | None,
    nbytes: int,
    protection: int,
    flags: int,
    descriptor: int,
    offset: int = 0,
) -> int:
    address = _libc.mmap(place, nbytes, protection, flags, descriptor, offset)
    if address is None or address == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(address)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
