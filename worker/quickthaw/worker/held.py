"""One attempt as the machine of its worker remembers it."""

from __future__ import annotations

from dataclasses import dataclass

from quickthaw.worker.attempts import Assignment, LoadSummary, Phase, RunResult, TellFinished


@dataclass(slots=True)
class HeldAttempt:
    """Times are seconds of the worker's monotonic clock. `place` is the one in its batch."""

    assignment: Assignment
    phase: Phase = Phase.ASSIGNED
    load_began: float = 0.0
    load_ms: int = 0
    load: LoadSummary | None = None
    run_began: float = 0.0
    batch_size: int = 1
    place: int = 0
    metered_ms: int = 0
    cancel_reason: str | None = None
    result: RunResult | None = None
    blocked: bool = False  # no room until something is released
    end: TellFinished | None = None
    paid_ms: int = 0  # run time that is paid for; 0 for no limit
    unpaid: bool = False  # told to stop, because all of it has run

    @property
    def paid_until(self) -> float | None:
        """When its run has used up what is paid for; None if nothing waits for that."""
        if self.phase is not Phase.RUNNING or not self.paid_ms or self.unpaid:
            return None
        return self.run_began + self.paid_ms * self.batch_size / 1000

    @property
    def batch_key(self) -> str:
        return self.load.batch_key if self.load is not None else ""

    def run_ms(self, now: float) -> int:
        """Of its run's time so far, in whole milliseconds; the shares of a batch add up to all."""
        return (whole_ms(now - self.run_began) + self.place) // self.batch_size


class LimitedRuns:
    """The attempts that have not ended and whose run time is paid for bit by bit."""

    def __init__(self) -> None:
        self._attempts: dict[str, HeldAttempt] = {}

    def pay(self, attempt: HeldAttempt, paid_ms: int) -> None:
        """Up to so much of its run time; 0 for no limit."""
        attempt.paid_ms = paid_ms
        if paid_ms and attempt.end is None:
            self._attempts[attempt.assignment.attempt_id] = attempt

    def forget(self, attempt_id: str) -> None:
        self._attempts.pop(attempt_id, None)

    def due(self) -> float | None:
        """When the first has used up what is paid for; None if none that runs has a limit."""
        untils = (attempt.paid_until for attempt in self._attempts.values())
        return min((until for until in untils if until is not None), default=None)

    def used_up(self, now: float) -> list[str]:
        """Those that must stop now, each of them once."""
        found: list[str] = []
        for attempt_id, attempt in self._attempts.items():
            if (until := attempt.paid_until) is not None and until <= now:
                attempt.unpaid = True
                found.append(attempt_id)
        return found


def whole_ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))
