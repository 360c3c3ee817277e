"""The pinned slab: host memory that is mapped, touched and registered once, at worker start.

Registering memory with a GPU is slow and takes driver-wide locks, so it happens once for all
models. Components occupy ranges of the slab; a small part is set aside for streaming components
that do not fit. A slab over a descriptor outlives its process: whoever holds the descriptor next
finds the components that were complete (`slab_index.py`).
"""

from __future__ import annotations

import queue
import threading
from bisect import insort
from collections import deque
from typing import TYPE_CHECKING

from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.memory import PAGE_BYTES, Memory, round_up
from quickthaw.snapshot.slab_index import INDEX_BYTES, SlabIndex
from quickthaw.wire.errors import SettingsInvalid

if TYPE_CHECKING:
    from quickthaw.snapshot.device import Device

REGISTER_BYTES = 1 << 30
"""One registration: long ones stall other users of the driver. Copies never cross a boundary."""


SLOT_BYTES = 4 * BLOCK_BYTES


class SlabFull(Exception):
    """No free range is large enough; the loader streams instead, so callers never see this."""


class SlabRange:
    """A part of the slab with a count of its holders. It returns to the slab when all let go."""

    def __init__(self, slab: Slab, offset: int, nbytes: int, slot: int | None = None) -> None:
        self._slab = slab
        self.offset = offset
        self.nbytes = nbytes
        self.slot = slot
        """Its record in the index of a shared slab."""
        self._holders = 1

    @property
    def view(self) -> memoryview:
        """The bytes, writable. Must not be used after the last `release`."""
        return self._slab.memory.view[self.offset : self.offset + self.nbytes]

    @property
    def shared(self) -> bool:
        """Whether somebody beside the first holder uses it."""
        with self._slab.lock:
            self._slab.settle()
            return self._holders > 1

    def retain(self) -> None:
        with self._slab.lock:
            if self._holders == 0:
                raise RuntimeError("the range was given back already")
            self._holders += 1

    def release(self) -> None:
        with self._slab.lock:
            self._slab.settle()
            self.let_go()

    def release_later(self) -> None:
        """`release` without taking a lock, for finalizers: they may run anywhere."""
        self._slab.leaving.append(self)

    def let_go(self) -> None:
        """For the slab, which holds its lock."""
        if self._holders == 0:
            raise RuntimeError("the range was given back already")
        self._holders -= 1
        if self._holders == 0:
            self._slab.give_back(self)

    def list_as(self, digest: str, nbytes: int) -> None:
        """Tells a process that takes the slab over that these are the component's bytes.

        Only for a component that is complete and checked. Nothing happens in an anonymous slab.
        """
        self._slab.list_range(self, digest, nbytes)

    def unlist(self) -> None:
        """What is here is not what `list_as` said; to be called before it is overwritten."""
        self._slab.unlist_range(self)

    def pieces(self, start: int, nbytes: int, piece_bytes: int) -> list[tuple[int, int]]:
        """As in `HostRange`: no piece crosses from one registration into another."""
        return pieces(self.offset + start, nbytes, piece_bytes)


class Slab:
    """`nbytes` of memory, of which `staging_bytes` are kept for streaming. Thread-safe.

    Registered with `device` if that pins memory. First fit over offsets; free neighbours merge.
    `descriptor`: of a memfd (or a file on tmpfs) to keep the slab in, made `nbytes` long if it is
    not; it stays the caller's to close, and no two processes may have a slab in it at once. What an
    earlier process completed there waits for `claim`; of a slab of another size nothing is kept.
    """

    def __init__(
        self,
        nbytes: int,
        *,
        device: Device | None = None,
        staging_bytes: int = 64 * 1024 * 1024,
        touch_threads: int = 4,
        descriptor: int | None = None,
    ) -> None:
        kept_bytes = 0 if descriptor is None else INDEX_BYTES
        if not 0 < staging_bytes <= nbytes - kept_bytes:
            raise SettingsInvalid(
                f"a slab of {nbytes} bytes cannot set {staging_bytes} aside for streaming; "
                "make the slab larger"
            )
        self.lock = threading.RLock()
        self.memory = Memory(nbytes, descriptor=descriptor)
        self.memory.touch(touch_threads)
        if self.memory.fresh:
            # Asking the kernel takes as long as all the rest of taking a slab over.
            self.memory.report_pages("slab")
        self._device = device
        if device is not None:
            device.register(self.memory, REGISTER_BYTES)
        end = self.memory.nbytes - kept_bytes
        self._free: list[tuple[int, int]] = [(0, end)]
        self._unclaimed: dict[str, tuple[SlabRange, int]] = {}
        self.leaving: deque[SlabRange] = deque()
        """Ranges that finalizers let go of; `settle` does it."""
        self.staging = self.allocate(staging_bytes)
        self.slot_bytes = _slot_bytes(staging_bytes)
        self.slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Where free parts of `staging` begin; whoever streams takes one and puts it back."""
        for start in range(0, staging_bytes - self.slot_bytes + 1, self.slot_bytes):
            self.slots.put(start)
        self._index: SlabIndex | None = None
        if descriptor is not None:
            self._index = SlabIndex(self.memory.view[end:], self.memory.nbytes, self.staging.nbytes)
            self._take_over(self._index)

    @property
    def total_bytes(self) -> int:
        """What components can occupy."""
        kept_bytes = 0 if self._index is None else INDEX_BYTES
        return self.memory.nbytes - self.staging.nbytes - kept_bytes

    @property
    def free_bytes(self) -> int:
        """Also what an earlier process left and nobody has claimed."""
        with self.lock:
            self.settle()
            unclaimed = sum(part.nbytes for part, _ in self._unclaimed.values())
            return unclaimed + sum(end - start for start, end in self._free)

    def allocate(self, nbytes: int) -> SlabRange:
        """A page-aligned range of `nbytes` rounded up to pages; raises `SlabFull`."""
        wanted = max(round_up(nbytes, PAGE_BYTES), PAGE_BYTES)
        with self.lock:
            self.settle()
            while True:
                for index, (start, end) in enumerate(self._free):
                    if end - start >= wanted:
                        if end - start == wanted:
                            del self._free[index]
                        else:
                            self._free[index] = (start + wanted, end)
                        return SlabRange(self, start, wanted)
                if not self._unclaimed:
                    raise SlabFull(f"no {wanted} bytes in one piece")
                # What nobody asked for by now is worth less than what is loaded now.
                self._unclaimed.popitem()[1][0].let_go()

    def settle(self) -> None:
        """Lets go of what finalizers could not. The caller holds the lock."""
        while self.leaving:
            self.leaving.popleft().let_go()

    def give_back(self, part: SlabRange) -> None:
        """For `SlabRange.release`."""
        with self.lock:
            self.unlist_range(part)
            insort(self._free, (part.offset, part.offset + part.nbytes))
            merged: list[tuple[int, int]] = []
            for start, end in self._free:
                if merged and merged[-1][1] == start:
                    merged[-1] = (merged[-1][0], end)
                else:
                    merged.append((start, end))
            self._free = merged

    def list_range(self, part: SlabRange, digest: str, nbytes: int) -> None:
        """For `SlabRange.list_as`."""
        with self.lock:
            if self._index is not None and part.slot is None:
                part.slot = self._index.write(digest, part.offset, nbytes)

    def unlist_range(self, part: SlabRange) -> None:
        """For `SlabRange.unlist`."""
        with self.lock:
            if self._index is not None and part.slot is not None:
                self._index.erase(part.slot)
                part.slot = None

    def claim(self, digest: str, nbytes: int) -> SlabRange | None:
        """The range in which an earlier process completed a component of `nbytes`, once.

        The caller owns it, and checks the bytes before it uses them.
        """
        with self.lock:
            part, listed_bytes = self._unclaimed.get(digest, (None, 0))
            if part is None or listed_bytes != nbytes:
                return None
            del self._unclaimed[digest]
            return part

    def _take_over(self, index: SlabIndex) -> None:
        for each in index.found:
            part = SlabRange(self, each.offset, round_up(each.nbytes, PAGE_BYTES), each.slot)
            self._unclaimed[each.digest] = (part, each.nbytes)
        position = self.staging.nbytes
        self._free, end = [], self._free[-1][1]
        for part, _ in self._unclaimed.values():
            if part.offset > position:
                self._free.append((position, part.offset))
            position = part.offset + part.nbytes
        if position < end:
            self._free.append((position, end))

    def close(self) -> None:
        """Unregisters the memory. The mapping goes when nothing refers to it any more.

        The descriptor's memory, and what is listed in it, stay for the next process.
        """
        if self._device is not None:
            self._device.unregister(self.memory, REGISTER_BYTES)
            self._device = None


def _slot_bytes(staging_bytes: int) -> int:
    """Small enough for several, so that one is read while another is copied; whole blocks."""
    wanted = min(SLOT_BYTES, max(staging_bytes // 4, BLOCK_BYTES))
    return min(wanted // BLOCK_BYTES * BLOCK_BYTES, staging_bytes)


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
