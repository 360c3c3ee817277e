"""What happens to the attempts of one worker: events in, commands out, no clock and no I/O.

Times are seconds of one monotonic clock, passed in; metered time is the whole milliseconds between
the start of a run and its end. Loads begin one at a time, in order of assignment, and at most
`ready_max` models wait loaded while others run, so a load overlaps the runs before it without
filling the device with models that cannot run yet. While the next one loads and nothing could run,
a later attempt whose model is up runs (`overtaking`). A snapshot runs once at a time, for pipelines
are not re-entrant; the next attempt waits with its meter closed. Those that wait so, have the same
snapshot and equal batch keys run as one batch when their turn comes; its time is shared out among
them to the millisecond, and what a member's place costs after it was stopped is nobody's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import assert_never

from quickthaw.worker import events
from quickthaw.worker.attempts import (
    Assignment,
    Failure,
    LoadSummary,
    NoRoomYet,
    Outcome,
    Phase,
    RunResult,
    Status,
    Stopped,
    StoredArtifact,
)
from quickthaw.worker.commands import (
    BeginLoad,
    BeginRun,
    BeginStore,
    Command,
    ReleaseModel,
    StopWork,
    TellFinished,
    TellLoading,
    TellRunning,
)
from quickthaw.worker.held import HeldAttempt, LimitedRuns, whole_ms
from quickthaw.worker.overtaking import Overtaking


class AttemptMachine:
    """`concurrency`: runs at once. `attempts_max`: attempts held that have not ended. `batch_max`:
    attempts in one run; 1 runs each alone. `ready_max`: models that may wait loaded, as many as run
    at least. `overtakes_max`: runs that may begin before an attempt while it loads."""

    def __init__(
        self,
        concurrency: int,
        attempts_max: int,
        batch_max: int = 1,
        ready_max: int = 1,
        overtakes_max: int = 0,
    ) -> None:
        self._batch_max = batch_max
        self._ready_max = max(concurrency, ready_max)
        self._concurrency = concurrency
        self._attempts_max = attempts_max
        self._attempts: OrderedDict[str, HeldAttempt] = OrderedDict()
        # By attempt id, and possibly of attempts that have ended or were revoked meanwhile: a slot
        # is free again only when the thread behind it has come back.
        self._loads_in_flight: set[str] = set()
        self._runs_in_flight: dict[str, str] = {}  # to the snapshot, empty for none
        self._active = 0  # attempts not ENDED
        self._waiting: OrderedDict[str, None] = OrderedDict()  # ASSIGNED
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._limited = LimitedRuns()
        self._overtaking = Overtaking(overtakes_max)

    @property
    def idle(self) -> bool:
        """Nothing is assigned or running; ends may still wait for their acknowledgement."""
        return self._active == 0 and not self._loads_in_flight and not self._runs_in_flight

    @property
    def running(self) -> int:
        return len(self._runs_in_flight)

    def unacknowledged(self) -> list[TellFinished]:
        """Ends that the scheduler has not confirmed, oldest first."""
        return [attempt.end for attempt in self._attempts.values() if attempt.end is not None]

    def statuses(self, now: float, *, ended: bool = False) -> list[Status]:
        """One line for every attempt held; those that have ended only if asked for."""
        lines: list[Status] = []
        for attempt in self._attempts.values():
            if attempt.end is not None and not ended:
                continue
            lines.append(attempt.status(now))
        return lines

    def handle(self, event: events.Event, now: float) -> list[Command]:
        """`now` is when the event happened, which may be a little before it is handled."""
        commands, unix_ms = list[Command](), 0
        match event:
            case events.Assigned(assignment, unix_ms, refusal):
                self._assigned(assignment, refusal, now, commands)
            case events.LoadReturned(attempt_id, load, unix_ms):
                self._load_returned(attempt_id, load, now, commands)
            case events.LoadLasts(attempt_id):
                self._overtaking.load_lasts(self._attempts.get(attempt_id))
            case events.TakenUp(attempt_id, taken, unix_ms):
                self._taken_up(attempt_id, taken, now, commands)
            case events.RunReturned(attempt_id, run, unix_ms, run_id, over):
                if over:
                    self._runs_in_flight.pop(run_id or attempt_id, None)
                self._run_returned(attempt_id, run, now, commands)
            case events.StoreReturned(attempt_id, stored):
                attempt = self._attempts.get(attempt_id)
                if attempt is not None and attempt.phase is Phase.STORING:
                    if isinstance(stored, Failure):
                        self._end(attempt, Outcome.FAILED, commands, failure=stored)
                    else:
                        self._end(attempt, Outcome.SUCCEEDED, commands, artifacts=stored)
            case events.CancelRequested(attempt_id, reason):
                if (attempt := self._attempts.get(attempt_id)) is not None:
                    self._cancel(attempt, reason, commands)
            case events.CancelAll(reason):
                for attempt in list(self._attempts.values()):
                    self._cancel(attempt, reason, commands)
            case events.Revoked(attempt_ids):
                for attempt_id in attempt_ids:
                    self._forget(attempt_id, commands)
            case events.LeaseExpired():
                # Ends stay: that work is done, and the scheduler may still want it.
                for attempt_id, attempt in list(self._attempts.items()):
                    if attempt.phase is not Phase.ENDED:
                        self._forget(attempt_id, commands)
            case events.MeterExtended(leases):
                for attempt_id, paid_ms in leases:
                    if (attempt := self._attempts.get(attempt_id)) is not None:
                        self._limited.pay(attempt, paid_ms)
                self._stop_unpaid(now, commands)
            case events.MeterDue():
                self._stop_unpaid(now, commands)
            case events.EndsAcknowledged(attempt_ids):
                for attempt_id in attempt_ids:
                    known = self._attempts.get(attempt_id)
                    if known is not None and known.phase is Phase.ENDED:
                        del self._attempts[attempt_id]
            case _:
                assert_never(event)
        self._advance(now, unix_ms, commands)
        return commands

    # ---- single events -------------------------------------------------------------------------

    def _assigned(
        self, assignment: Assignment, refusal: Failure | None, now: float, commands: list[Command]
    ) -> None:
        if assignment.attempt_id in self._attempts:
            return  # said again after a reconnect
        attempt = HeldAttempt(assignment, load_began=now)
        self._attempts[assignment.attempt_id] = attempt
        self._limited.pay(attempt, assignment.meter_lease_ms)
        self._active += 1
        self._waiting[assignment.attempt_id] = None
        if refusal is not None:
            # Cancelled unasked: the scheduler gives the request to another worker.
            self._end(attempt, Outcome.CANCELLED, commands, failure=refusal)
        elif self._active > self._attempts_max:
            message = f"the worker already holds {self._attempts_max} attempts; try again later"
            full = Failure("QUEUE_FULL", message, retryable=True)
            self._end(attempt, Outcome.FAILED, commands, failure=full)

    def _load_returned(
        self,
        attempt_id: str,
        result: LoadSummary | NoRoomYet | Failure,
        now: float,
        commands: list[Command],
    ) -> None:
        if attempt_id in self._loads_in_flight:
            self._loads_in_flight.remove(attempt_id)
            self._overtaking.load_is_over()
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.phase is not Phase.LOADING:
            if isinstance(result, LoadSummary):
                commands.append(ReleaseModel(attempt_id))
            self._unblock()
            return
        match result:
            case LoadSummary():
                attempt.load = result
                attempt.load_ms = whole_ms(now - attempt.load_began)
                attempt.phase = Phase.READY
                self._ready[attempt_id] = None
            case NoRoomYet():
                attempt.phase = Phase.ASSIGNED
                # With nothing left that could make room the load is tried at once, and told for
                # good whether the model fits.
                attempt.blocked = bool(self._runs_in_flight or self._ready)
                attempt.crowded = True
                self._waiting[attempt_id] = None
                self._waiting.move_to_end(attempt_id, last=False)
            case Failure():
                attempt.load_ms = whole_ms(now - attempt.load_began)
                self._end(attempt, Outcome.FAILED, commands, failure=result)
            case _:
                assert_never(result)

    def _run_returned(
        self,
        attempt_id: str,
        result: RunResult | Stopped | Failure,
        now: float,
        commands: list[Command],
    ) -> None:
        self._unblock()
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.phase is not Phase.RUNNING:
            return
        attempt.metered_ms = max(attempt.metered_ms, attempt.run_ms(now))
        match result:
            case RunResult():
                attempt.result = result
                attempt.phase = Phase.STORING
                commands.append(BeginStore(attempt.assignment, result.files))
            case Stopped():
                outcome, failure = attempt.stopped()
                self._end(attempt, outcome, commands, failure=failure)
            case Failure():
                self._end(attempt, Outcome.FAILED, commands, failure=result)
            case _:
                assert_never(result)

    def meter_due(self) -> float | None:
        """When the first run has used up what is paid for; None if none has a limit."""
        return self._limited.due()

    def _stop_unpaid(self, now: float, commands: list[Command]) -> None:
        commands.extend(map(StopWork, self._limited.used_up(now)))

    def _cancel(self, attempt: HeldAttempt, reason: str, commands: list[Command]) -> None:
        match attempt.phase:
            case Phase.RUNNING:
                attempt.cancel_reason = reason
                commands.append(StopWork(attempt.assignment.attempt_id))
            case Phase.ASSIGNED | Phase.LOADING | Phase.READY:
                self._let_go(attempt, commands)
                failure = Failure("CANCELLED", reason or "cancelled")
                self._end(attempt, Outcome.CANCELLED, commands, failure=failure)
            case Phase.STORING | Phase.ENDED:
                pass  # the run is done and metered; the result stands
            case _:
                assert_never(attempt.phase)

    def _forget(self, attempt_id: str, commands: list[Command]) -> None:
        attempt = self._attempts.pop(attempt_id, None)
        self._limited.forget(attempt_id)
        if attempt is None:
            return
        if attempt.phase is not Phase.ENDED:
            self._active -= 1
            self._let_go(attempt, commands)
        elif attempt.assignment.contents_bytes_max:
            commands.append(StopWork(attempt_id))  # its files may be stored only now
        self._waiting.pop(attempt_id, None)
        self._ready.pop(attempt_id, None)

    def _let_go(self, attempt: HeldAttempt, commands: list[Command]) -> None:
        if attempt.phase in (Phase.LOADING, Phase.RUNNING, Phase.STORING):
            commands.append(StopWork(attempt.assignment.attempt_id))
        elif attempt.phase is Phase.READY:
            commands.append(ReleaseModel(attempt.assignment.attempt_id))
            self._unblock()

    def _end(
        self,
        attempt: HeldAttempt,
        outcome: Outcome,
        commands: list[Command],
        *,
        failure: Failure | None = None,
        artifacts: tuple[StoredArtifact, ...] = (),
    ) -> None:
        assignment = attempt.assignment
        end = attempt.ended(outcome, failure, artifacts)
        self._active -= 1
        self._waiting.pop(assignment.attempt_id, None)
        self._ready.pop(assignment.attempt_id, None)
        self._limited.forget(assignment.attempt_id)
        commands.append(end)

    # ---- what can begin now --------------------------------------------------------------------

    def _unblock(self) -> None:
        # Loads begin in order, so only the first can have found no room.
        if (attempt_id := next(iter(self._waiting), None)) is not None:
            self._attempts[attempt_id].blocked = False

    def _advance(self, now: float, unix_ms: int, commands: list[Command]) -> None:
        while (attempt_id := self._next_ready()) is not None:
            batch = [
                attempt
                for attempt in self._batch_with(attempt_id)
                if not self._expire(attempt, unix_ms, commands)
            ]
            if batch:
                self._begin(batch, now, commands)
        while self._waiting and not self._loads_in_flight and self._may_load():
            attempt_id = next(iter(self._waiting))
            attempt = self._attempts[attempt_id]
            if self._expire(attempt, unix_ms, commands):
                continue
            if attempt.blocked:
                break
            self._to_loading(attempt, now, commands)
            self._loads_in_flight.add(attempt_id)
            commands.append(BeginLoad(attempt.assignment))
        self._overtake(unix_ms, commands)

    def _overtake(self, unix_ms: int, commands: list[Command]) -> None:
        """Who could run beside the load? The answer leads to a run, or here again."""
        if len(self._runs_in_flight) >= self._concurrency:
            return
        waiting = [self._attempts[each] for each in self._waiting]
        for later in self._overtaking.candidates(waiting, self._runs_in_flight.values()):
            if not self._expire(later, unix_ms, commands):
                commands.append(self._overtaking.ask(later))
                return

    def _taken_up(
        self, attempt_id: str, load: LoadSummary | None, now: float, commands: list[Command]
    ) -> None:
        attempt = self._attempts.get(attempt_id)
        waits = attempt is not None and attempt.phase is Phase.ASSIGNED
        self._overtaking.answered(taken=load is not None and waits)
        if load is None:
            return
        if attempt is not None and waits:
            self._to_loading(attempt, now, commands)
        self._load_returned(attempt_id, load, now, commands)

    def _to_loading(self, attempt: HeldAttempt, now: float, commands: list[Command]) -> None:
        del self._waiting[attempt.assignment.attempt_id]
        attempt.phase = Phase.LOADING
        attempt.load_began = now
        commands.append(TellLoading(attempt.assignment.attempt_id))

    def _batch_with(self, first: str) -> list[HeldAttempt]:
        ready = [self._attempts[attempt_id] for attempt_id in self._ready]
        return self._attempts[first].mates(ready)[: self._batch_max]  # oldest first

    def _begin(self, batch: list[HeldAttempt], now: float, commands: list[Command]) -> None:
        first, *mates = (attempt.assignment for attempt in batch)
        self._runs_in_flight[first.attempt_id] = first.snapshot_digest
        for place, attempt in enumerate(batch):
            attempt_id = attempt.assignment.attempt_id
            del self._ready[attempt_id]
            attempt.phase = Phase.RUNNING
            attempt.run_began = now
            attempt.batch_size, attempt.place = len(batch), place
            commands.append(TellRunning(attempt_id, attempt.load or LoadSummary(), attempt.load_ms))
        commands.append(BeginRun(first, tuple(mates)))

    def _may_load(self) -> bool:
        """Whether the next load brings no more models to the device than may wait there."""
        if len(self._ready) < self._ready_max:
            return True
        first = self._attempts[next(iter(self._waiting))].assignment.snapshot_digest
        ready = {self._attempts[each].assignment.snapshot_digest for each in self._ready}
        # Of a model that is ready already, as many as a batch takes.
        return ready == {first} and len(self._ready) < self._batch_max

    def _next_ready(self) -> str | None:
        if len(self._runs_in_flight) >= self._concurrency:
            return None
        running = set(self._runs_in_flight.values()) - {""}
        for attempt_id in self._ready:
            if self._attempts[attempt_id].assignment.snapshot_digest not in running:
                return attempt_id
        return None

    def _expire(self, attempt: HeldAttempt, unix_ms: int, commands: list[Command]) -> bool:
        """Ends an attempt whose deadline has passed before it began; True if it did."""
        deadline_unix_ms = attempt.assignment.deadline_unix_ms
        if not unix_ms or not deadline_unix_ms or unix_ms < deadline_unix_ms:
            return False
        if attempt.phase is Phase.READY:
            commands.append(ReleaseModel(attempt.assignment.attempt_id))
            self._unblock()
        message = "the request's deadline passed before the worker could run it"
        self._end(attempt, Outcome.FAILED, commands, failure=Failure("DEADLINE_EXPIRED", message))
        return True
