"""Moving components: from sources to host memory to the device, checked on the way.

All components of a load are one job. Its readers take spans in load order, whatever component they
belong to, so the next one's reads begin while the last spans of the one before are under way. Each
reader hashes what it read while that is in the cache and enqueues the copy to the device, if there
is one: where the device's memory is the host's, bytes are read straight to where they will be used.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

import xxhash

from quickthaw.snapshot.copiers import Source, Sparse
from quickthaw.snapshot.device import Device, DeviceBuffer, Fence
from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.headers import corrupt
from quickthaw.snapshot.host_range import HostRange
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.memory import PAGE_BYTES, round_up
from quickthaw.snapshot.slab import Slab
from quickthaw.snapshot.spans import Lane, Spans
from quickthaw.snapshot.tiers import Tier
from quickthaw.wire.errors import SettingsInvalid

COPY_BYTES = 64 * 1024 * 1024
IN_FLIGHT_BYTES = 256 * 1024 * 1024
BEGIN_SECONDS = 0.002
"""Ten times what it takes all readers of an idle machine to begin."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """Seconds as in `ComponentReport`."""

    copier: str | None
    why: str
    read_seconds: float
    copy_seconds: float
    read_bytes: int


NOTHING_MOVED = Transferred(None, "", 0.0, 0.0, 0)


@dataclass(eq=False, slots=True)
class Move:
    """One component's way. The caller owns what is named here and gives it back afterwards.

    `source`: fills host memory; without one the bytes are in `room` already. `room`: host memory of
    the component; without it, bytes go straight into a buffer that is host memory, else they stream
    through the slab's staging part. `verify`: each block against the manifest. `on_bytes` is called
    from reader threads; raising in it gives the whole job up.
    """

    component: Component
    source: Source | None
    room: HostRange | None
    buffer: DeviceBuffer | None
    verify: bool
    on_bytes: Callable[[int], None]
    on_enqueued: Callable[[Fence | None], None] = lambda _: None
    """Told when nothing is left but copies before that fence, on the thread of the last span."""

    _began: float | None = None
    _read_until: float = 0.0
    _copy_from: float | None = None
    _left: int = 0
    _fence: Fence | None = None
    _enqueued: threading.Event = field(default_factory=threading.Event)

    @property
    def copies(self) -> bool:
        """Whether bytes go on from host memory into the buffer."""
        if self.buffer is None:
            return False
        if self.room is None:
            return self.buffer.host_view is None
        return self.buffer.room is not self.room

    @property
    def target(self) -> memoryview | None:
        """Where the bytes are to be; None to stream them."""
        if self.room is not None:
            return self.room.view
        return None if self.buffer is None else self.buffer.host_view

    @property
    def works(self) -> bool:
        """Whether there is anything to do."""
        return self.source is not None or self.verify or self.copies


class Transfer:
    """Moves components with the given slab, device and reader threads.

    `in_flight_bytes`: of each job at most so much is being read at once, and being copied to the
    device, or one span if that is more.
    """

    def __init__(
        self,
        slab: Slab,
        device: Device,
        readers: Executor,
        reader_count: int,
        clock: Callable[[], float],
        *,
        in_flight_bytes: int = IN_FLIGHT_BYTES,
    ) -> None:
        if slab.staging.nbytes < BLOCK_BYTES:
            raise SettingsInvalid(
                f"the slab's staging part has {slab.staging.nbytes} bytes; streaming needs at "
                f"least one block of {BLOCK_BYTES}"
            )
        self.slab = slab
        self.device = device
        self.clock = clock
        self.in_flight_bytes = in_flight_bytes
        self._readers = readers
        self._reader_count = reader_count

    @contextmanager
    def moving(self, moves: Sequence[Move]) -> Iterator[Job]:
        """Begins to move all of them. At the end nothing reads or writes any of them any more.

        Leaving it with an error gives up what has not begun and waits for the rest.
        """
        job = Job(self, moves, self._reader_count)
        futures: list[Future[None]] = []
        try:
            futures += [self._readers.submit(job.work) for _ in range(job.readers_wanted)]
            job.let_readers_begin()
            yield job
        except BaseException as error:
            job.give_up(error)
            raise
        finally:
            wait(futures)  # all of them, also after an error: they write to memory others will get
            job.settle()


class Job:
    """Several moves under way. Made by `Transfer.moving`."""

    def __init__(self, transfer: Transfer, moves: Sequence[Move], readers: int) -> None:
        self._transfer = transfer
        self._moves = tuple(moves)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._copying: deque[tuple[Fence, int]] = deque()
        self._copying_bytes = 0
        for move in self._moves:
            move._left = move.component.data_bytes if move.works else 0
            if not move._left:
                move._enqueued.set()
                move.on_enqueued(None)
        self._spans = Spans([self._lane(move) for move in moves], readers, transfer.in_flight_bytes)

    @property
    def readers_wanted(self) -> int:
        return self._spans.readers_wanted

    def let_readers_begin(self) -> None:
        """Gives every reader a moment to ask for its first bytes.

        What the caller does next, binding modules, keeps the interpreter busy, and a reader that
        has not got to its first read by then would wait for it while the disk has nothing to do.
        """
        self._spans.wait_until_under_way(BEGIN_SECONDS)

    def finish(self, move: Move) -> Transferred:
        """Returns when a component has arrived; raises what kept it, or another of the job."""
        move._enqueued.wait()
        if self._error is not None and move._left:
            raise self._error
        if move.copies:
            (move._fence or self._transfer.device.fence()).wait()
        now = self._transfer.clock()
        began = now if move._began is None else move._began
        copied = 0.0 if move._copy_from is None else now - move._copy_from
        if (source := move.source) is None:
            return Transferred(None, "", max(move._read_until - began, 0.0), copied, 0)
        read_bytes = source.read_bytes if isinstance(source, Sparse) else move.component.data_bytes
        read_seconds = max(move._read_until - began, 0.0)
        return Transferred(source.name, source.why, read_seconds, copied, read_bytes)

    def give_up(self, error: BaseException) -> None:
        """No reader begins another span; whoever waits for what is missing gets the error."""
        with self._lock:
            if self._error is None:
                self._error = error
        self._spans.stop()
        for move in self._moves:
            move._enqueued.set()

    def settle(self) -> None:
        """Waits for all copies, also after an error: the slab's ranges will be given to others."""
        if any(move.copies for move in self._moves):
            self._transfer.device.fence().wait()

    # ---- readers -------------------------------------------------------------------------------

    def work(self) -> None:
        """What each reader thread does."""
        while (span := self._spans.take()) is not None:
            try:
                self._move(self._moves[span.number], span.start, span.nbytes)
            except BaseException as error:
                self.give_up(error)
            finally:
                self._spans.give_back(span)

    def _lane(self, move: Move) -> Lane:
        """Spans are whole blocks, so that each block is checked by one reader."""
        source = move.source
        span = min(COPY_BYTES, self._transfer.in_flight_bytes // 4)
        if source is not None:
            span = max(source.span_bytes, BLOCK_BYTES)
        if source is None and move.verify:
            span = BLOCK_BYTES
        if move.target is None:
            span = min(span, self._transfer.slab.slot_bytes)
        span = max(span // BLOCK_BYTES, 1) * BLOCK_BYTES
        # Each request to somewhere else costs a way there and back: there, spans stay as they are.
        shrinks = source is not None and source.tier is not Tier.REMOTE
        return Lane(move._left, span, BLOCK_BYTES if shrinks else span, self._readers_of(move))

    def _readers_of(self, move: Move) -> int:
        if move.source is not None:
            return move.source.readers
        # Enqueuing copies is no work, hashing is.
        return len(os.sched_getaffinity(0)) if move.verify else 1

    def _move(self, move: Move, start: int, size: int) -> None:
        if move._began is None:
            move._began = self._transfer.clock()  # at once with another reader's, or just after
        if (target := move.target) is not None:
            read = self._bring(move, start, size, target[start:])
            if move.copies:
                self._note_copies(size)
        else:
            read = self._stream(move, start, size)
        move.on_bytes(size)
        with self._lock:
            move._read_until = max(move._read_until, read)
            move._left -= size
            if move._left:
                return
        fence = move._fence = self._transfer.device.fence() if move.copies else None
        move.on_enqueued(fence)
        move._enqueued.set()

    def _stream(self, move: Move, start: int, size: int) -> float:
        """`_bring`, through a slot of the slab's staging part; the next span gets it afterwards."""
        slab = self._transfer.slab
        slot = slab.slots.get()
        try:
            place = slab.staging.view[slot : slot + slab.slot_bytes]
            read = self._bring(move, start, size, place)
            self._transfer.device.fence().wait()
            return read
        finally:
            slab.slots.put(slot)

    def _bring(self, move: Move, start: int, size: int, target: memoryview) -> float:
        """Reads a span and enqueues its copies; returns when it had been read."""
        _fill(move, start, size, target)
        read = self._transfer.clock()
        if move.copies:
            self._copy(move, start, size, target)
        return read

    def _note_copies(self, size: int) -> None:
        """Waits for the oldest copies if more are under way than may be.

        What is enqueued cannot be taken back: a load that is given up would go on for as long as
        its copies take, and those of a more urgent one would come after all of them.
        """
        fence = self._transfer.device.fence()
        due: list[Fence] = []
        with self._lock:
            self._copying.append((fence, size))
            self._copying_bytes += size
            while self._copying_bytes > self._transfer.in_flight_bytes and len(self._copying) > 1:
                oldest, nbytes = self._copying.popleft()
                self._copying_bytes -= nbytes
                due.append(oldest)
        for oldest in due:
            oldest.wait()

    def _copy(self, move: Move, start: int, size: int, target: memoryview) -> None:
        assert move.buffer is not None
        with self._lock:
            if move._copy_from is None:
                move._copy_from = self._transfer.clock()
        cut = [(0, size)] if move.room is None else move.room.pieces(start, size, COPY_BYTES)
        for piece, length in cut:
            self._transfer.device.copy(move.buffer, start + piece, target[piece : piece + length])


def _fill(move: Move, start: int, size: int, target: memoryview) -> None:
    """Reads data bytes `start` to `start + size` into `target` and checks them block by block."""
    if move.source is not None and move.source.span_bytes >= BLOCK_BYTES:
        _read(move, start, size, target)
    for offset in range(0, size, BLOCK_BYTES):
        length = min(BLOCK_BYTES, size - offset)
        content = target[offset : offset + round_up(length, PAGE_BYTES)]
        if move.source is not None and move.source.span_bytes < BLOCK_BYTES:
            found = _read_hashed(move, move.source.span_bytes, start + offset, length, content)
        elif move.verify:
            found = xxhash.xxh3_128_hexdigest(content[:length])
        else:
            continue
        block = (start + offset) // BLOCK_BYTES
        if move.verify and found != move.component.block_hash(block):
            raise corrupt(move.component, "bytes differ from the manifest", block=block)


def _read_hashed(move: Move, step: int, start: int, size: int, target: memoryview) -> str:
    """Reads one block in small steps, each hashed while it is in the processor's caches."""
    hasher = xxhash.xxh3_128()
    for offset in range(0, size, step):
        length = min(step, size - offset)
        _read(move, start + offset, length, target[offset : offset + round_up(length, PAGE_BYTES)])
        if move.verify:
            hasher.update(target[offset : offset + length])
    return hasher.hexdigest()


def _read(move: Move, start: int, size: int, target: memoryview) -> None:
    assert move.source is not None
    count = move.source.read_into(start, target[: round_up(size, PAGE_BYTES)], size)
    if count != size:
        block = (start + count) // BLOCK_BYTES
        raise corrupt(move.component, f"{move.source.name} ended too early", block=block)
