"""Moving one component: file to slab to device, checked on the way.

Reader threads take spans of the file in turn. Each reads its span into the slab, hashes its blocks
while they are in the cache, and enqueues the copy to the device, so reading, checking and copying
overlap within one file. A component that has no room in the slab streams through the staging part.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from quickthaw.snapshot.copiers import Source, Sparse
from quickthaw.snapshot.device import Device, DeviceBuffer
from quickthaw.snapshot.hashes import BLOCK_BYTES, block_hash
from quickthaw.snapshot.headers import corrupt
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.slab import Slab, SlabRange, pieces
from quickthaw.wire.errors import SettingsInvalid

SPAN_BYTES = 4 * BLOCK_BYTES
COPY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Transferred:
    """Seconds as in `ComponentReport`."""

    copier: str | None
    why: str
    read_seconds: float
    copy_seconds: float
    read_bytes: int


@dataclass(slots=True)
class _Times:
    """First and last moments, gathered from several threads."""

    clock: Callable[[], float]
    lock: threading.Lock = field(default_factory=threading.Lock)
    read_until: float = 0.0
    copy_from: float | None = None

    def read_done(self) -> None:
        with self.lock:
            self.read_until = max(self.read_until, self.clock())

    def copy_begins(self) -> None:
        with self.lock:
            if self.copy_from is None:
                self.copy_from = self.clock()


class Transfer:
    """Moves components with the given slab, device and reader threads."""

    def __init__(
        self,
        slab: Slab,
        device: Device,
        readers: Executor,
        reader_count: int,
        clock: Callable[[], float],
    ) -> None:
        if slab.staging.nbytes < BLOCK_BYTES:
            raise SettingsInvalid(
                f"the slab's staging part has {slab.staging.nbytes} bytes; streaming needs at "
                f"least one block of {BLOCK_BYTES}"
            )
        self._slab = slab
        self._device = device
        self._readers = readers
        self._reader_count = reader_count
        self._clock = clock

    def from_source(
        self,
        component: Component,
        source: Source,
        room: SlabRange | None,
        buffer: DeviceBuffer | None,
        *,
        verify: bool,
        on_bytes: Callable[[int], None],
    ) -> Transferred:
        """Fills `room`, `buffer` or both; without `room` it streams, and `buffer` is required.

        Blocks until everything has arrived. On an error nothing reads or writes either any more.
        """
        times = _Times(self._clock)
        began = self._clock()
        with self._places(component, room) as places, self._arrived(buffer):
            self._run(_Job(component, source, places, buffer, verify, on_bytes), times)
        copied = 0.0 if times.copy_from is None else self._clock() - times.copy_from
        read_bytes = source.read_bytes if isinstance(source, Sparse) else component.data_bytes
        read_seconds = max(times.read_until - began, 0.0)
        return Transferred(source.name, source.why, read_seconds, copied, read_bytes)

    def from_pinned(
        self, room: SlabRange, nbytes: int, buffer: DeviceBuffer, on_bytes: Callable[[int], None]
    ) -> Transferred:
        """Copies a component that is in the slab already; it was checked when it was read."""
        began = self._clock()
        view = room.view
        with self._arrived(buffer):
            for start, size in pieces(room.offset, nbytes, COPY_BYTES):
                self._device.copy(buffer, start, view[start : start + size])
                on_bytes(size)
        return Transferred(None, "", 0.0, self._clock() - began, 0)

    @contextmanager
    def _arrived(self, buffer: DeviceBuffer | None) -> Iterator[None]:
        """Waits for all copies, also after an error: the slab's ranges will be given to others."""
        try:
            yield
        finally:
            if buffer is not None:
                self._device.fence().wait()

    @contextmanager
    def _places(self, component: Component, room: SlabRange | None) -> Iterator[_Places]:
        if room is not None:
            yield _Places(room, None)
            return
        with self._slab.staging_lock:
            staging = self._slab.staging
            slots: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
            size = min(SPAN_BYTES, staging.nbytes)
            for start in range(0, staging.nbytes - size + 1, size):
                slots.put((start, size))
            yield _Places(staging, slots)

    def _run(self, job: _Job, times: _Times) -> None:
        spans: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        step = job.places.span_bytes
        total = job.component.data_bytes
        for start in range(0, total, step):
            spans.put((start, min(step, total - start)))
        stop = threading.Event()

        def read_spans() -> None:
            while not stop.is_set():
                try:
                    start, size = spans.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._move(job, start, size, times)
                except BaseException:
                    stop.set()
                    raise

        workers = min(self._reader_count, -(-total // step))
        futures = [self._readers.submit(read_spans) for _ in range(workers)]
        wait(futures)  # all of them, also after an error: they write to memory others will get
        for future in futures:
            future.result()

    def _move(self, job: _Job, start: int, size: int, times: _Times) -> None:
        with job.places.place(start, size) as (offset, view):
            job.read(start, size, view)
            times.read_done()
            if job.buffer is not None:
                times.copy_begins()
                for piece, length in pieces(offset, size, COPY_BYTES):
                    self._device.copy(job.buffer, start + piece, view[piece : piece + length])
                if job.places.streaming:
                    self._device.fence().wait()  # the next span is about to overwrite this one
        job.on_bytes(size)


class _Places:
    """Where spans go: their own place in the component's range, or the next free staging slot."""

    def __init__(self, room: SlabRange, slots: queue.SimpleQueue[tuple[int, int]] | None) -> None:
        self._room = room
        self._slots = slots

    @property
    def streaming(self) -> bool:
        return self._slots is not None

    @property
    def span_bytes(self) -> int:
        """Whole blocks, so that each block is checked by one reader."""
        if not self.streaming:
            return SPAN_BYTES
        return min(SPAN_BYTES, self._room.nbytes // BLOCK_BYTES * BLOCK_BYTES)

    @contextmanager
    def place(self, start: int, size: int) -> Iterator[tuple[int, memoryview]]:
        """Yields the slab offset and a view long enough for `size` rounded up to pages."""
        if self._slots is None:
            yield self._room.offset + start, self._room.view[start : start + SPAN_BYTES]
            return
        slot = self._slots.get()
        try:
            begin, length = slot
            yield self._room.offset + begin, self._room.view[begin : begin + length]
        finally:
            self._slots.put(slot)


@dataclass(frozen=True, slots=True)
class _Job:
    component: Component
    source: Source
    places: _Places
    buffer: DeviceBuffer | None
    verify: bool
    on_bytes: Callable[[int], None]

    def read(self, start: int, size: int, view: memoryview) -> None:
        """Fills `view` from data byte `start` and checks it block by block."""
        part = self.component
        count = self.source.read_into(start, view, size)
        if count != size:
            block = (start + count) // BLOCK_BYTES
            raise corrupt(part, f"{self.source.name} ended too early", block=block)
        if not self.verify:
            return
        for offset in range(0, size, BLOCK_BYTES):
            block = (start + offset) // BLOCK_BYTES
            content = view[offset : min(offset + BLOCK_BYTES, size)]
            if block_hash(content) != part.block_hash(block):
                raise corrupt(part, "bytes differ from the manifest", block=block)
