"""The workers' streams: what waits for each, and which stream of a worker is its newest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from quickthaw.v1 import fleet_pb2
from quickthaw.wire import errors, limits

ACKNOWLEDGED_AFTER_SECONDS = 0.02
"""At the latest: of a busy worker's ends none is acknowledged by a frame of its own."""

logger = logging.getLogger(__name__)

Message: TypeAlias = fleet_pb2.SchedulerMessage | Callable[[fleet_pb2.SchedulerMessage], None]
"""One to send; or what fills one in its frame, for to copy it into that costs more than to make
it."""


class WorkerStream:
    """One attached stream. Messages wait in a bounded queue; a worker that lets it overflow has
    stopped reading and is cut off, to connect again."""

    def __init__(self, worker_id: str, incarnation: str, outbound_max: int) -> None:
        self.worker_id = worker_id
        self.incarnation = incarnation
        self._outbound_max = outbound_max
        self._outbound: deque[Message] = deque()
        # What was decided before the Welcome could go out: it goes right after it.
        self._held: list[Message] | None = []
        # Ends to acknowledge, which all go in one message.
        self._ended: list[str] = []
        self._overdue = False
        self._changed = asyncio.Event()
        self.closed: errors.QuickthawError | None = None
        self._left = asyncio.Event()
        self._spoke = asyncio.Event()

    def spoke(self) -> None:
        """Something has come from the worker."""
        self._spoke.set()

    def leave(self) -> None:
        """Nothing more can come from the worker here."""
        self._left.set()
        self._spoke.set()

    async def speaks_after(self, seconds: float) -> bool:
        """Waits for the worker's next word from then on: True; or for the stream's end: False."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._left.wait()
                return False
        self._spoke.clear()
        await self._spoke.wait()
        return not self._left.is_set()

    def send(self, message: Message) -> None:
        if self.closed is not None:
            return
        if self._held is not None:
            if callable(message) or not message.HasField("welcome"):
                self._held.append(message)
                return
            self._outbound.extend((message, *self._held))
            self._held = None
        else:
            self._outbound.append(message)
        if len(self._outbound) > self._outbound_max:
            self.close(
                errors.ResourceExhausted(
                    f"worker {self.worker_id} let {self._outbound_max} messages pile up; it must "
                    "connect again"
                )
            )
        self._changed.set()

    def acknowledge(self, attempt_id: str) -> None:
        """An end that the worker need not repeat. It goes with the next message, or a little later
        alone: nothing waits for it."""
        self._ended.append(attempt_id)
        if len(self._ended) == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(ACKNOWLEDGED_AFTER_SECONDS, self._acknowledge_alone)

    def _acknowledge_alone(self) -> None:
        if self._ended:
            self._overdue = True
            self._changed.set()

    def close(self, why: errors.QuickthawError) -> None:
        if self.closed is None:
            self.closed = why
            self._changed.set()

    async def next_frame(self) -> fleet_pb2.SchedulerFrame:
        """Waits for something to send, then takes all of it up to a frame's bound.

        Raises what the stream was closed with, after the last message is out.
        """
        while not self._outbound and (not self._overdue or self._held is not None):
            if self.closed is not None:
                raise self.closed
            self._changed.clear()
            await self._changed.wait()
        frame = fleet_pb2.SchedulerFrame()
        messages = frame.messages
        for _ in range(min(len(self._outbound), limits.FRAME_MESSAGES_MAX - 1)):
            message = self._outbound.popleft()
            if callable(message):
                message(messages.add())
            else:
                messages.append(message)
        if self._ended:
            messages.add().finished_ack.attempt_ids.extend(self._ended)
            self._ended, self._overdue = [], False
        return frame


class WorkerStreams:
    """By worker. Implements `dispatcher.Outbox`."""

    def __init__(self, outbound_max: int, unread_seconds: float) -> None:
        """`unread_seconds`: what a worker said lies unread for less than that."""
        self._outbound_max = outbound_max
        self._unread_seconds = unread_seconds
        self._streams: dict[str, WorkerStream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    async def wait_for_id(self, worker_id: str, incarnation: str) -> None:
        """Holds a process back while another one has its id, until that one shows what it is.

        One that was killed says nothing more: its stream ends, at the latest with its lease. One
        that lives sends its next heartbeat, and FailedPrecondition is raised: were it cut off in
        favour of the newer one, two that are both restarted would cut each other off for ever.
        """
        while (other := self._streams.get(worker_id)) is not None:
            if other.incarnation == incarnation:
                return
            if await other.speaks_after(self._unread_seconds):
                raise errors.FailedPrecondition(
                    f"the worker id {worker_id} is taken by another live process; each worker "
                    "needs an id of its own (--worker-id; `quickthaw up` takes the host's name)"
                )

    def open(self, worker_id: str, incarnation: str) -> WorkerStream:
        """A new stream of a worker; an older one of the same process ends."""
        older = self._streams.get(worker_id)
        if older is not None:
            older.close(
                errors.FailedPrecondition(
                    f"a newer stream of the same process said Hello as {worker_id}"
                )
            )
        stream = self._streams[worker_id] = WorkerStream(worker_id, incarnation, self._outbound_max)
        return stream

    def is_current(self, stream: WorkerStream) -> bool:
        return self._streams.get(stream.worker_id) is stream

    def leave(self, stream: WorkerStream) -> bool:
        """Forgets a stream that ended; whether it was the worker's newest."""
        stream.leave()
        if not self.is_current(stream):
            return False
        del self._streams[stream.worker_id]
        return True

    def send(self, worker_id: str, message: Message) -> None:
        if (stream := self._streams.get(worker_id)) is not None:
            stream.send(message)

    def acknowledge(self, worker_id: str, attempt_id: str) -> None:
        if (stream := self._streams.get(worker_id)) is not None:
            stream.acknowledge(attempt_id)

    def close(self, worker_id: str, detail: str) -> None:
        if (stream := self._streams.get(worker_id)) is not None:
            stream.close(errors.Unavailable(f"{detail}; connect again"))

    def close_all(self, why: errors.QuickthawError) -> None:
        for stream in self._streams.values():
            stream.close(why)
