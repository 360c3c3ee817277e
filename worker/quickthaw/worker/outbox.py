"""What waits to be sent to the scheduler, bounded: previews and logs give way, state never does.

An attempt that begins and succeeds before a frame leaves is told by its end alone: that says all
that its loading and its running said, and the scheduler follows it through the states between. How
far one came that failed is only in what it said before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from quickthaw.v1 import fleet_pb2
from quickthaw.wire.limits import FRAME_MESSAGES_MAX
from quickthaw.worker import convert
from quickthaw.worker.attempts import Outcome
from quickthaw.worker.commands import TellFinished, TellLoading, TellRunning

FRAME_BYTES_MAX = 2 * 1024 * 1024
"""Well under a message's limit: one preview more may be added to a frame that is nearly full."""

GATHER_TURNS_MAX = 8
"""A frame waits for what the next turn of the event loop adds, so many times at most: a frame costs
as much as several attempts."""

State: TypeAlias = TellLoading | TellRunning | TellFinished

_GIVES_WAY = ("preview", "log", "progress")
"""Kinds of AttemptEvent in the order in which they are dropped."""


@dataclass(slots=True, eq=False)
class _Entry:
    said: fleet_pb2.WorkerMessage | State
    attempt_id: str
    droppable: str | None = None  # the event's kind
    superseded: bool = False


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
        self._superseded = 0
        # The newest states of attempts that have told nothing else since.
        self._states: dict[str, list[_Entry]] = {}
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries) - self._superseded

    def put(self, message: fleet_pb2.WorkerMessage, attempt_id: str = "") -> None:
        droppable: str | None = None
        if message.WhichOneof("kind") == "event":
            droppable = message.event.WhichOneof("kind") or "log"
            self._events += 1
            self._states.pop(message.event.attempt_id, None)
        self._entries.append(_Entry(message, attempt_id, droppable))
        if self._events > self._events_max:
            self._drop_one()
        self._news.set()

    def tell(self, state: State) -> None:
        """What has become of an attempt."""
        entry = _Entry(state, state.attempt_id)
        self._entries.append(entry)
        if isinstance(state, TellFinished) and state.outcome is Outcome.SUCCEEDED:
            for earlier in self._states.pop(state.attempt_id, ()):
                earlier.superseded = True
                self._superseded += 1
        elif not isinstance(state, TellFinished):
            self._states.setdefault(state.attempt_id, []).append(entry)
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
        self._superseded = sum(entry.superseded for entry in self._entries)
        self._states.clear()

    async def take(self) -> fleet_pb2.WorkerFrame:
        """The next frame: everything that waits, up to a frame's limits; waits for the first."""
        while True:
            while not len(self):
                self._news.clear()
                await self._news.wait()
            for _ in range(GATHER_TURNS_MAX):
                self._news.clear()
                await asyncio.sleep(0)
                if not self._news.is_set():
                    break
            if (frame := self._frame()).messages:  # it may all have been taken back meanwhile
                return frame

    def _frame(self) -> fleet_pb2.WorkerFrame:
        frame = fleet_pb2.WorkerFrame()
        size_bytes = 0
        while (
            self._entries
            and len(frame.messages) < FRAME_MESSAGES_MAX
            and size_bytes < FRAME_BYTES_MAX
        ):
            entry = self._entries.popleft()
            if entry.superseded:
                self._superseded -= 1
                continue
            if entry.droppable:
                self._events -= 1
            message = frame.messages.add()
            _fill(message, entry.said)
            self._states.pop(entry.attempt_id, None)
            size_bytes += message.ByteSize()
        return frame


def _fill(message: fleet_pb2.WorkerMessage, said: fleet_pb2.WorkerMessage | State) -> None:
    match said:
        case TellFinished():
            convert.fill_finished(message, said)
        case fleet_pb2.WorkerMessage():
            message.CopyFrom(said)
        case TellLoading(attempt_id):
            message.CopyFrom(convert.loading(attempt_id))
        case TellRunning():
            message.CopyFrom(convert.running(said))
        case _:
            assert_never(said)
