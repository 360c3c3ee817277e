"""One attempt as the machine of its worker remembers it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quickthaw.wire.errors import BudgetExhausted
from quickthaw.worker.attempts import (
    Assignment,
    Failure,
    LoadSummary,
    Outcome,
    Phase,
    RunResult,
    Status,
    StoredArtifact,
    contents_of,
)
from quickthaw.worker.commands import TellFinished


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
    crowded: bool = False  # there was none at least once
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

    def mates(self, ready: Iterable[HeldAttempt]) -> list[HeldAttempt]:
        """Of those that are ready, which may run with it; itself too."""
        snapshot, key = self.assignment.snapshot_digest, self.batch_key
        if not key:
            return [self]
        return [
            each
            for each in ready
            if each.assignment.snapshot_digest == snapshot and each.batch_key == key
        ]

    def stopped(self) -> tuple[Outcome, Failure]:
        """How its run ends that obeyed a stop."""
        if self.unpaid and self.cancel_reason is None:
            spent = f"the {self.paid_ms} ms of run time that were paid for are used up"
            return Outcome.FAILED, Failure(BudgetExhausted.reason, spent)
        return Outcome.CANCELLED, Failure("CANCELLED", self.cancel_reason or "cancelled")

    def status(self, now: float) -> Status:
        """Its line as of now. The final figure never falls below one that was reported."""
        if self.phase is Phase.RUNNING:
            self.metered_ms = max(self.metered_ms, self.run_ms(now))
        request_id = self.assignment.request_id
        outcome = self.end.outcome if self.end else None
        return Status(self.assignment.attempt_id, request_id, self.phase, self.metered_ms, outcome)

    def ended(
        self, outcome: Outcome, failure: Failure | None, artifacts: tuple[StoredArtifact, ...]
    ) -> TellFinished:
        """Its end, from now on. Most outputs' bytes need not wait for the acknowledgement."""
        assignment, result = self.assignment, self.result
        self.phase, self.result = Phase.ENDED, None
        self.end = TellFinished(
            attempt_id=assignment.attempt_id,
            request_id=assignment.request_id,
            outcome=outcome,
            metered_ms=self.metered_ms,
            load_ms=self.load_ms,
            load=self.load,
            first_step_seconds=result.first_step_seconds if result else 0.0,
            compiled=result.compiled if result else "",
            output_json=result.output_json if result and outcome is Outcome.SUCCEEDED else "",
            artifacts=artifacts,
            failure=failure,
            seed=result.seed if result else None,
            contents=contents_of(assignment, result) if result and artifacts else (),
        )
        return self.end


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
