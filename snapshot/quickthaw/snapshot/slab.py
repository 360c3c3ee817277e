"""The pinned slab: host memory that is mapped, touched and registered once, at worker start.

Registering memory with a GPU is slow and takes driver-wide locks, so it happens once for all
models. Components occupy ranges of the slab; a small part is set aside for streaming components
that do not fit.
"""

from __future__ import annotations

import threading
from bisect import insort
from typing import TYPE_CHECKING

from quickthaw.snapshot.memory import PAGE_BYTES, Memory, round_up
from quickthaw.wire.errors import SettingsInvalid

if TYPE_CHECKING:
    from quickthaw.snapshot.device import Device

REGISTER_BYTES = 1 << 30
"""One registration: long ones stall other users of the driver. Copies never cross a boundary."""


class SlabFull(Exception):
    """No free range is large enough; the loader streams instead, so callers never see this."""


class SlabRange:
    """A part of the slab with a count of its holders. It returns to the slab when all let go."""

    def __init__(self, slab: Slab, offset: int, nbytes: int) -> None:
        self._slab = slab
        self.offset = offset
        self.nbytes = nbytes
        self._holders = 1

    @property
    def view(self) -> memoryview:
        """The bytes, writable. Must not be used after the last `release`."""
        return self._slab.memory.view[self.offset : self.offset + self.nbytes]

    @property
    def shared(self) -> bool:
        """Whether somebody beside the first holder uses it."""
        return self._holders > 1

    def retain(self) -> None:
        with self._slab.lock:
            if self._holders == 0:
                raise RuntimeError("the range was given back already")
            self._holders += 1

    def release(self) -> None:
        with self._slab.lock:
            if self._holders == 0:
                raise RuntimeError("the range was given back already")
            self._holders -= 1
            if self._holders == 0:
                self._slab.give_back(self)


class Slab:
    """`nbytes` of memory, of which `staging_bytes` are kept for streaming. Thread-safe.

    Registered with `device` if that pins memory. First fit over offsets; free neighbours merge.
    """

    def __init__(
        self,
        nbytes: int,
        *,
        device: Device | None = None,
        staging_bytes: int = 64 * 1024 * 1024,
        touch_threads: int = 4,
    ) -> None:
        if not 0 < staging_bytes <= nbytes:
            raise SettingsInvalid(
                f"a slab of {nbytes} bytes cannot set {staging_bytes} aside for streaming; "
                "make the slab larger"
            )
        self.lock = threading.RLock()
        self.memory = Memory(nbytes)
        self.memory.touch(touch_threads)
        self._device = device
        if device is not None:
            device.register(self.memory, REGISTER_BYTES)
        self._free: list[tuple[int, int]] = [(0, self.memory.nbytes)]
        self.staging_lock = threading.Lock()
        """Held by whoever streams through `staging`."""
        self.staging = self.allocate(staging_bytes)

    @property
    def total_bytes(self) -> int:
        """What components can occupy."""
        return self.memory.nbytes - self.staging.nbytes

    @property
    def free_bytes(self) -> int:
        with self.lock:
            return sum(end - start for start, end in self._free)

    def allocate(self, nbytes: int) -> SlabRange:
        """A page-aligned range of `nbytes` rounded up to pages; raises `SlabFull`."""
        wanted = max(round_up(nbytes, PAGE_BYTES), PAGE_BYTES)
        with self.lock:
            for index, (start, end) in enumerate(self._free):
                if end - start >= wanted:
                    if end - start == wanted:
                        del self._free[index]
                    else:
                        self._free[index] = (start + wanted, end)
                    return SlabRange(self, start, wanted)
        raise SlabFull(f"no {wanted} bytes in one piece")

    def give_back(self, part: SlabRange) -> None:
        """For `SlabRange.release`."""
        with self.lock:
            insort(self._free, (part.offset, part.offset + part.nbytes))
            merged: list[tuple[int, int]] = []
            for start, end in self._free:
                if merged and merged[-1][1] == start:
                    merged[-1] = (merged[-1][0], end)
                else:
                    merged.append((start, end))
            self._free = merged

    def close(self) -> None:
        """Unregisters the memory. The mapping goes when nothing refers to it any more."""
        if self._device is not None:
            self._device.unregister(self.memory, REGISTER_BYTES)
            self._device = None


def pieces(offset: int, nbytes: int, piece_bytes: int) -> list[tuple[int, int]]:
    """Cuts slab bytes `offset..offset+nbytes` for copying: `(start, size)` relative to `offset`.

    No piece is over `piece_bytes` or crosses a registration boundary.
    """
    found: list[tuple[int, int]] = []
    position = offset
    while position < offset + nbytes:
        boundary = (position // REGISTER_BYTES + 1) * REGISTER_BYTES
        size = min(piece_bytes, boundary - position, offset + nbytes - position)
        found.append((position - offset, size))
        position += size
    return found
