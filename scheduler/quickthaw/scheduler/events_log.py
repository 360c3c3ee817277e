"""What happened to each request, kept for those who watch it: bounded, resumable, lossy by rule.

An entry is opaque to this module but for its size and whether it may be dropped. Sequences rise by
one for every entry, so a gap tells a watcher what it missed. States are never dropped.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from quickthaw.scheduler.core.records import record
from quickthaw.wire import errors

Payload = TypeVar("Payload")

_SLACK = 16
"""Of the total bound, the part that is made free at once."""


@record
class Entry(Generic[Payload]):
    """`size_bytes` counts against the total bound. The last entry of a request is `final`."""

    sequence: int
    unix_ms: int
    payload: Payload
    droppable: bool
    final: bool
    size_bytes: int


class _Log(Generic[Payload]):
    __slots__ = ("changed", "entries", "finished", "next_sequence", "size_bytes", "watchers")

    def __init__(self, first_sequence: int) -> None:
        self.entries: list[Entry[Payload]] = []
        self.next_sequence = first_sequence
        self.size_bytes = 0
        self.finished = False
        self.watchers = 0
        self.changed: asyncio.Event | None = None
        """Set by the next entry, and done with then; None while nobody waits for it."""

    def news(self) -> Awaitable[object]:
        """Waits for the next entry, or for the end of all watches."""
        if self.changed is None:
            self.changed = asyncio.Event()
        return self.changed.wait()

    def tell(self) -> None:
        if self.changed is not None:
            self.changed.set()
            self.changed = None


@dataclass(frozen=True, slots=True)
class EventLimits:
    per_request_max: int
    total_bytes_max: int
    finished_max: int
    watchers_per_request_max: int


class EventsLog(Generic[Payload]):
    """Belongs to the event loop. A watcher keeps a place, not a queue, so a slow one costs nothing:
    what was dropped from the ring before it came back is what it loses."""

    def __init__(self, limits: EventLimits) -> None:
        self._limits = limits
        self._logs: dict[str, _Log[Payload]] = {}
        # Ended requests, oldest first: their logs go when room is needed.
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._total_bytes = 0
        # Of use above the total bound alone: events until the logs are thinned out again, and the
        # bytes at which they are whatever the events.
        self._patience = 0
        self._crowded_bytes = limits.total_bytes_max
        self._closed: errors.QuickthawError | None = None

    @property
    def total_bytes(self) -> int:
        return self._total_bytes

    def knows(self, request_id: str) -> bool:
        return request_id in self._logs

    def begin(self, request_id: str, first_sequence: int = 1) -> None:
        """From now on the request is known. One that an earlier process knew needs a first
        sequence above all that were told then."""
        self._logs[request_id] = _Log(first_sequence)

    def close(self, why: errors.QuickthawError) -> None:
        """Ends every watch with an error."""
        self._closed = why
        for log in self._logs.values():
            log.tell()

    def append(
        self,
        request_id: str,
        unix_ms: int,
        payload: Payload,
        *,
        droppable: bool = False,
        final: bool = False,
        size_bytes: int = 256,
    ) -> None:
        log = self._logs.get(request_id)
        if log is None or log.finished:
            return
        sequence, entries = log.next_sequence, log.entries
        entries.append(Entry(sequence, unix_ms, payload, droppable, final, size_bytes))
        log.next_sequence = sequence + 1
        log.size_bytes += size_bytes
        self._total_bytes += size_bytes
        if len(entries) > self._limits.per_request_max:
            self._drop_one(log)
        if log.changed is not None:
            log.tell()
        if final:
            log.finished = True
            self._finished[request_id] = None
            self._make_room()
        elif self._total_bytes > self._limits.total_bytes_max:
            self._make_room()

    def _drop_one(self, log: _Log[Payload]) -> bool:
        """The oldest entry that may go, if there is one. A log of states alone is bounded by the
        attempts."""
        for index, entry in enumerate(log.entries):
            if entry.droppable:
                self._total_bytes -= entry.size_bytes
                log.size_bytes -= entry.size_bytes
                del log.entries[index]
                return True
        return False

    def _make_room(self) -> None:
        while self._finished and (
            len(self._finished) > self._limits.finished_max
            or self._total_bytes > self._limits.total_bytes_max
        ):
            request_id, _ = self._finished.popitem(last=False)
            self._total_bytes -= self._logs.pop(request_id).size_bytes
        if self._total_bytes <= self._limits.total_bytes_max:
            return
        self._patience -= 1
        if self._patience <= 0 or self._total_bytes > self._crowded_bytes:
            self._thin_out()

    def _thin_out(self) -> None:
        """Drops the oldest of each log, again and again, until there is some room.

        That looks at every log, and so is not done for every event: what there is room for has to
        arrive before the next time, or as many events as there are logs if none of them had
        anything to drop.
        """
        slack_bytes = self._limits.total_bytes_max // _SLACK
        thinned = list(self._logs.values())
        while thinned and self._total_bytes > self._limits.total_bytes_max - slack_bytes:
            thinned = [log for log in thinned if self._drop_one(log)]
        self._patience = len(self._logs)
        self._crowded_bytes = max(self._limits.total_bytes_max, self._total_bytes + slack_bytes)

    def kept(self, request_id: str) -> Sequence[Entry[Payload]]:
        """What there is of a request, oldest first; nothing of one that is not known."""
        log = self._logs.get(request_id)
        return () if log is None else tuple(log.entries)

    async def watch(
        self, request_id: str, after_sequence: int = 0
    ) -> AsyncGenerator[Entry[Payload], None]:
        """Entries after `after_sequence`, waiting for more until the final one.

        The request must be known; ends at once if nothing is left to tell. Raises
        ResourceExhausted if too many watch the request, and what the log was closed with.
        """
        log = self._logs[request_id]
        if log.watchers >= self._limits.watchers_per_request_max:
            raise errors.ResourceExhausted(
                f"{log.watchers} streams watch request {request_id} already",
                retry_delay_seconds=1.0,
            )
        log.watchers += 1
        try:
            while True:
                seen = log.next_sequence
                while (entry := _next(log.entries, after_sequence)) is not None:
                    after_sequence = entry.sequence
                    yield entry
                if log.finished and log.next_sequence - 1 <= after_sequence:
                    return
                if self._closed is not None:
                    raise self._closed
                if seen == log.next_sequence:
                    await log.news()
        finally:
            log.watchers -= 1


def _next(entries: Sequence[Entry[Payload]], sequence: int) -> Entry[Payload] | None:
    """Not a list of all that follow: a slow watcher would keep what the log has dropped."""
    if not entries or entries[-1].sequence <= sequence:
        return None
    return entries[bisect_right(entries, sequence, key=_sequence)]


def _sequence(entry: Entry[Payload]) -> int:
    return entry.sequence
