"""What open attempts have come to, written a little later and only as it is then.

A short attempt ends before its placement, its load and its run were ever written; its end says all
of that again, so they need not be written at all. A longer one is written once for each few of its
steps. Nothing is lost that matters: the worker knows what it runs, and tells a restarted scheduler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import assert_never

from quickthaw.scheduler.core.commands import JournalMetered, JournalPlacement, JournalProgress
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptId, AttemptRecord, RequestId
from quickthaw.scheduler.store.rows import metered_rows, placement_rows, progress_rows
from quickthaw.scheduler.store.statements import Row

Soon = JournalPlacement | JournalProgress | JournalMetered


Actions = list[Callable[[], None]]


class _Steps:
    """Some requests that are not durable yet; the newest step and run time of some attempts."""

    __slots__ = ("attempts", "metered_ms", "placed", "requests", "then")

    def __init__(self) -> None:
        self.requests: dict[RequestId, Sequence[Row]] = {}
        self.attempts: dict[AttemptId, tuple[AttemptRecord, RequestState]] = {}
        self.placed: set[AttemptId] = set()
        """Those among `attempts` of which nothing has been written yet."""
        self.metered_ms: dict[AttemptId, int] = {}
        self.then: list[Callable[[], None]] = []

    @property
    def noted(self) -> bool:
        return bool(self.requests or self.attempts or self.metered_ms or self.then)

    def rows(self) -> list[Row]:
        rows = [row for request in self.requests.values() for row in request]
        for attempt_id, (attempt, state) in self.attempts.items():
            make = placement_rows if attempt_id in self.placed else progress_rows
            rows.extend(make(attempt, state))
        rows.extend(metered_rows(self.metered_ms.items()))
        return rows


class WriteBehind:
    """Belongs to the event loop. What is noted is written after half of `delay_seconds` at the
    earliest, so that what ends before is spared, and after all of it at the latest.

    `write` gets the rows of one transaction, and what to do when they are durable.
    """

    def __init__(
        self, write: Callable[[Sequence[Row], Actions], None], delay_seconds: float
    ) -> None:
        self._write = write
        self._turn_seconds = delay_seconds / 2
        self._newer = _Steps()
        self._older = _Steps()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, command: Soon) -> None:
        if isinstance(command, JournalProgress):
            attempt = command.attempt
            steps = self._older if attempt.attempt_id in self._older.attempts else self._newer
            steps.attempts[attempt.attempt_id] = (attempt, command.state)
        elif isinstance(command, JournalPlacement):
            attempt = command.attempt
            self._newer.attempts[attempt.attempt_id] = (attempt, RequestState.PLACED)
            self._newer.placed.add(attempt.attempt_id)
        elif isinstance(command, JournalMetered):
            self._newer.metered_ms.update(command.metered_ms)
        else:
            assert_never(command)
        if self._timer is None:
            self._take_turns()

    def note_request(self, request_id: RequestId, rows: Sequence[Row]) -> None:
        """A request whose caller is told of nothing but its end: it may be made durable with it."""
        self._newer.requests[request_id] = rows
        self._take_turns()

    def take_request(self, request_id: RequestId) -> Sequence[Row]:
        """The rows of a request of which the caller has more to write; none if they are written."""
        for steps in (self._newer, self._older):
            if (rows := steps.requests.pop(request_id, None)) is not None:
                return rows
        return ()

    def forget(self, attempt_id: AttemptId) -> None:
        """Its end is being written, and says all that was noted of it."""
        for steps in (self._newer, self._older):
            if steps.attempts.pop(attempt_id, None) is not None:
                steps.placed.discard(attempt_id)
            if steps.metered_ms:
                steps.metered_ms.pop(attempt_id, None)

    def when_metered(self, action: Callable[[], None]) -> bool:
        """Acts when every run time noted so far is durable; False, and it does not, if all have
        been written, durably or not."""
        for steps in (self._newer, self._older):
            if steps.metered_ms:
                steps.then.append(action)
                return True
        return False

    def flush(self) -> None:
        """Writes everything noted so far."""
        self._turn()
        self._turn()

    def _turn(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due, self._older, self._newer = self._older, self._newer, _Steps()
        if (rows := due.rows()) or due.then:
            self._write(rows, due.then)
        if self._older.noted:
            self._take_turns()

    def _take_turns(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._turn_seconds, self._turn)
