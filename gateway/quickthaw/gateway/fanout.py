"""Many listeners to one request: one watch at the scheduler, one bounded log, a place for each.

A listener costs a place in the log and no queue of its own, so a slow one holds nothing up. States
are kept; of the rest the oldest goes when the log is full, and a listener that had not come that
far and wanted it is cut off: it would go on with a gap that its reader could not see.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Container
from typing import Final

from quickthaw.gateway.follow import Events, follow
from quickthaw.gateway.platform import Credential, Platform
from quickthaw.gateway.settings import Limits
from quickthaw.v1 import inference_pb2

DROPPED_KINDS: Final[tuple[str, ...]] = ("preview", "log", "progress")


class ReaderTooSlow(Exception):
    """What the reader has not taken yet is gone."""


class Fanout:
    """All requests that somebody listens to. Belongs to the event loop.

    Listeners share a watch only with the same key: whether it may see a request, the scheduler
    says, once for each key.
    """

    def __init__(self, platform: Platform, limits: Limits) -> None:
        self._platform = platform
        self._limits = limits
        self._logs: dict[tuple[Credential, str], _Log] = {}

    @property
    def watches(self) -> int:
        """Open at the scheduler."""
        return len(self._logs)

    async def listen(
        self, credential: Credential, request_id: str, *, without: Container[str] = ()
    ) -> Events:
        """As `follow`, from the first event that is still kept; events of kinds in `without` are
        left out. Raises ReaderTooSlow. Close it to stop listening.
        """
        name = (credential, request_id)
        log = self._logs.get(name)
        if log is None:
            events = follow(self._platform, credential, request_id)
            log = self._logs[name] = _Log(events, self._limits)
        log.listeners += 1
        entries = log.read(without)
        try:
            async for event in entries:
                yield event
        finally:
            await entries.aclose()
            log.listeners -= 1
            # A log that ended stays with those that are reading it: who comes now asks anew.
            if self._logs.get(name) is log and (log.ended or not log.listeners):
                del self._logs[name]
            if not log.listeners:
                await log.close()


class _Log:
    """One request's events, numbered from 1, with gaps where some were dropped."""

    __slots__ = (
        "_bytes",
        "_changed",
        "_dropped",
        "_entries",
        "_error",
        "_last",
        "_limits",
        "_reading",
        "ended",
        "listeners",
    )

    def __init__(self, events: Events, limits: Limits) -> None:
        self.listeners = 0
        self.ended = False
        self._limits = limits
        self._entries: list[tuple[int, inference_pb2.Event]] = []
        self._bytes = 0
        self._last = 0
        # The last number dropped of each kind.
        self._dropped: dict[str, int] = dict.fromkeys(DROPPED_KINDS, 0)
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read(events))

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def _read(self, events: Events) -> None:
        try:
            async for event in events:
                self._append(event)
        except Exception as error:
            self._error = error
        finally:
            await events.aclose()
            self.ended = True
            self._tell()

    def _append(self, event: inference_pb2.Event) -> None:
        self._last += 1
        self._entries.append((self._last, event))
        self._bytes += event.ByteSize()
        limits = self._limits
        while (
            len(self._entries) > limits.followed_events_max
            or self._bytes > limits.followed_bytes_max
        ) and self._drop_one():
            pass
        self._tell()

    def _drop_one(self) -> bool:
        """The oldest that may go. The last one stays: nobody has seen it yet."""
        for index, (number, event) in enumerate(self._entries[:-1]):
            kind = _kind(event)
            if kind in self._dropped:
                self._dropped[kind] = number
                self._bytes -= event.ByteSize()
                del self._entries[index]
                return True
        return False

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self, without: Container[str]) -> AsyncGenerator[inference_pb2.Event, None]:
        wanted = [kind for kind in DROPPED_KINDS if kind not in without]
        # Whoever comes late begins with what is kept, as at the scheduler.
        place, joined_at = 0, self._last
        while True:
            changed = self._changed
            while (found := self._after(place)) is not None:
                lost = max((self._dropped[kind] for kind in wanted), default=0)
                if lost > max(place, joined_at):
                    raise ReaderTooSlow
                place, event = found
                if _kind(event) not in without:
                    yield event
            if self.ended:
                if self._error is not None:
                    raise self._error
                return
            if changed is self._changed:
                await changed.wait()

    def _after(self, place: int) -> tuple[int, inference_pb2.Event] | None:
        """The next one. Not a list of them: a slow reader would keep what the log has dropped."""
        index = bisect_right(self._entries, place, key=_number)
        return self._entries[index] if index < len(self._entries) else None


def _kind(event: inference_pb2.Event) -> str:
    """Empty for a kind that this version does not know."""
    return event.WhichOneof("kind") or ""


def _number(entry: tuple[int, inference_pb2.Event]) -> int:
    return entry[0]
