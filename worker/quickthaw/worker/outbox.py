"""What waits to be sent to the scheduler, bounded: previews and logs give way, state never does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from quickthaw.v1 import fleet_pb2
from quickthaw.wire.limits import FRAME_MESSAGES_MAX

FRAME_BYTES_MAX = 2 * 1024 * 1024
"""Well under a message's limit: one preview more may be added to a frame that is nearly full."""

_GIVES_WAY = ("preview", "log", "progress")
"""Kinds of AttemptEvent in the order in which they are dropped."""


@dataclass(slots=True, eq=False)
class _Entry:
    message: fleet_pb2.WorkerMessage
    attempt_id: str
    droppable: str | None  # the event's kind


class Outbox:
    """Not thread-safe: lives on the event loop.

    State messages are few (a handful for each attempt, and attempts are bounded), so only events
    are: at most `events_max` wait, the oldest preview goes first, then logs, then progress.
    """

    def __init__(self, events_max: int, on_dropped: Callable[[str], None]) -> None:
        self._events_max = events_max
        self._on_dropped = on_dropped
        self._entries: deque[_Entry] = deque()
        self._events = 0
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, message: fleet_pb2.WorkerMessage, attempt_id: str = "") -> None:
        droppable: str | None = None
        if message.WhichOneof("kind") == "event":
            droppable = message.event.WhichOneof("kind") or "log"
            self._events += 1
        self._entries.append(_Entry(message, attempt_id, droppable))
        if self._events > self._events_max:
            self._drop_one()
        self._news.set()

    def _drop_one(self) -> None:
        for kind in _GIVES_WAY:
            for entry in self._entries:
                if entry.droppable == kind:
                    self._entries.remove(entry)
                    self._events -= 1
                    self._on_dropped(kind)
                    return

    def discard(self, attempt_ids: Iterable[str]) -> None:
        """Forgets what was to be said about these attempts."""
        unwanted = set(attempt_ids)
        self._keep(lambda entry: entry.attempt_id not in unwanted)

    def clear(self) -> None:
        self._keep(lambda entry: False)

    def _keep(self, wanted: Callable[[_Entry], bool]) -> None:
        self._entries = deque(entry for entry in self._entries if wanted(entry))
        self._events = sum(1 for entry in self._entries if entry.droppable)

    async def take(self) -> fleet_pb2.WorkerFrame:
        """The next frame: everything that waits, up to a frame's limits; waits for the first."""
        while not self._entries:
            self._news.clear()
            await self._news.wait()
        frame = fleet_pb2.WorkerFrame()
        size_bytes = 0
        while (
            self._entries
            and len(frame.messages) < FRAME_MESSAGES_MAX
            and size_bytes < FRAME_BYTES_MAX
        ):
            entry = self._entries.popleft()
            if entry.droppable:
                self._events -= 1
            size_bytes += entry.message.ByteSize()
            frame.messages.append(entry.message)
        return frame
