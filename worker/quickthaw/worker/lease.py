"""How long this worker may go on without hearing from the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quickthaw.worker.ports import Clock

IDLE_TURNS_MAX = 4


def idle_turns(lease_ms: int, heartbeat_interval_ms: int) -> int:
    """One heartbeat in so many is sent by a worker that has no attempts: there is no run time to
    tell, only that it lives, for which two in a lease are enough, with half an interval to spare:
    they are what a scheduler of a thousand workers has to do when there is nothing to do."""
    return max(1, min(IDLE_TURNS_MAX, 2 * lease_ms // (5 * max(1, heartbeat_interval_ms))))


class Lease:
    """Calls `on_over` once no word has come for the lease's length.

    It counts from the moment that the answered message was *sent*: the scheduler counts from when
    it was heard, which is later, so the worker stops before the scheduler gives its work away.
    """

    def __init__(self, clock: Clock, on_over: Callable[[float], None]) -> None:
        self._clock = clock
        self._on_over = on_over
        self._seconds = 0.0
        self._sent_at: dict[int, float] = {}  # heartbeats not acknowledged yet
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float, hello_sent_at: float) -> None:
        """A Welcome has come; it answers the Hello."""
        self._seconds = seconds
        self._extend(hello_sent_at)

    def sent(self, sequence: int) -> None:
        """A heartbeat is being written now: waiting before that must not lengthen the lease."""
        self._sent_at[sequence] = self._clock()

    def acknowledged(self, sequence: int) -> None:
        """A heartbeat was answered; one of an older stream says nothing."""
        sent_at = self._sent_at.pop(sequence, None)
        if sent_at is None:
            return
        for older in [known for known in self._sent_at if known < sequence]:
            del self._sent_at[older]
        self._extend(sent_at)

    def forget_unanswered(self) -> None:
        """The stream on which they were sent is gone. The lease itself runs on."""
        self._sent_at.clear()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _extend(self, sent_at: float) -> None:
        self.cancel()
        if self._seconds > 0:
            remaining = max(0.0, sent_at + self._seconds - self._clock())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(remaining, self._on_over, self._seconds)
