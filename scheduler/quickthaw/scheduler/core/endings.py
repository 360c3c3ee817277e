"""How attempts and requests end: lost and queued again, or terminal, with the bill."""

from __future__ import annotations

from quickthaw.scheduler.core import money, quarantine
from quickthaw.scheduler.core.attempts import enqueue, fair_nanodollars, opened, unreserve
from quickthaw.scheduler.core.budgets import Settled
from quickthaw.scheduler.core.commands import (
    JournalEnd,
    RequestEnd,
    Requeued,
    SendDrain,
    TellEnd,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    NO_OUTPUTS,
    Failure,
    LedgerLine,
    ModelSpec,
    Outcome,
    OutputUnits,
    Receipt,
)
from quickthaw.scheduler.core.pricing import BUDGET_EXHAUSTED, WORKER_LOST
from quickthaw.scheduler.core.state import State, Tracked
from quickthaw.scheduler.core.worker import Worker

DEADLINE_EXPIRED = "DEADLINE_EXPIRED"
MOVED = "moved"


def lose(
    state: State, tracked: Tracked, detail: str, *, exclude: bool = True, killed: bool = False
) -> None:
    """The open attempt is gone without an end of its own: again elsewhere, if tries remain.

    `exclude`: the worker is to blame, the request shall not go there again. `killed`: the worker's
    process ended, and the request may be to blame if it was being loaded or run.
    """
    attempt = opened(tracked)
    quarantined = False
    if killed and tracked.life.state is not RequestState.PLACED:
        tracked.killed_on = (*tracked.killed_on, attempt.worker_id)
        quarantined = quarantine.note_kill(state, tracked.job.model, attempt.worker_id)
    if exclude:
        tracked.lost_on |= {attempt.worker_id}
    if (stopping := tracked.stopping) is not None:
        cancelled = stopping.reason not in (DEADLINE_EXPIRED, BUDGET_EXHAUSTED)
        ending = RequestState.CANCELLED if cancelled else RequestState.FAILED
        end(state, tracked, ending, stopping, lost=True)
    elif len(tracked.killed_on) >= state.settings.poison_kills:
        end(state, tracked, RequestState.FAILED, _poison(tracked), lost=True)
    elif (known := quarantine.of(state, tracked.job.model)) is not None:
        end(state, tracked, RequestState.FAILED, quarantine.failure(known), lost=True)
    elif _tries(tracked) >= _tries_max(state, tracked):
        message = f"all {tracked.attempts} attempts were lost, the last because {detail}"
        failure = Failure("ATTEMPTS_EXHAUSTED", message, retryable=True)
        end(state, tracked, RequestState.FAILED, failure, lost=True)
    else:
        told = f"attempt {attempt.number} on {attempt.worker_id} was lost: {detail}"
        _again(state, tracked, WORKER_LOST, told)
    if quarantined:
        end_quarantined(state, tracked.job.model)


def _tries(tracked: Tracked) -> int:
    return tracked.attempts - tracked.moves


def _tries_max(state: State, tracked: Tracked) -> int:
    return tracked.job.attempts_max or state.settings.max_attempts


def take_back(state: State, tracked: Tracked) -> None:
    """The worker gave the open attempt back as it was asked to: again, in the request's old place.
    It is no try that counts, and what ran of it meanwhile is free."""
    attempt = opened(tracked)
    tracked.moving = False
    tracked.moves += 1
    told = f"attempt {attempt.number} was taken back from {attempt.worker_id}, which was still busy"
    _again(state, tracked, MOVED, told)


def try_elsewhere(state: State, tracked: Tracked, failure: Failure) -> bool:
    """After a load that failed: again on another worker, if it may be this one's fault alone and
    there is one, and tries remain. Or else one broken worker, which is idle all the time, would
    fail most of what others could run."""
    attempt = opened(tracked)
    lost_on = tracked.lost_on | {attempt.worker_id}
    if (
        tracked.stopping is not None
        or failure.reason not in quarantine.ELSEWHERE
        or _tries(tracked) >= _tries_max(state, tracked)
        or all(worker.worker_id in lost_on for worker in state.fleet.able(tracked.job.model))
    ):
        return False
    tracked.lost_on = lost_on
    told = f"attempt {attempt.number} could not load on {attempt.worker_id}: {failure.message}"
    _again(state, tracked, failure.reason, told)
    return True


def _again(state: State, tracked: Tracked, waived_for: str, told: str) -> None:
    """Closes the open attempt, which is free, and queues the request in its old place."""
    attempt = opened(tracked)
    ledger, settled = _close(state, tracked, Outcome.FAILED, waived_for)
    money.wait_again(state, tracked)
    state.out.append(JournalEnd(tracked.job, attempt, ledger, Requeued(told), settled))
    tracked.life.to(RequestState.QUEUED, state.now_ms, told)
    enqueue(state, tracked, told)


def _poison(tracked: Tracked) -> Failure:
    count, workers = len(tracked.killed_on), ", ".join(dict.fromkeys(tracked.killed_on))
    return Failure(
        "POISON_REQUEST",
        f"the request ended the process of {count} workers ({workers}), the later ones alone; it "
        "is not tried again, for it would take the next one down too",
    )


def end_quarantined(state: State, model: ModelSpec) -> None:
    """Fails everything that waits for a version that has just been quarantined."""
    known = quarantine.of(state, model)
    assert known is not None, f"{model.id} is not quarantined"
    why = quarantine.failure(known)
    waiting = [
        tracked
        for tracked in state.requests.values()
        if tracked.life.state is RequestState.QUEUED
        and tracked.job.model.snapshot_digest == model.snapshot_digest
        and tracked.job.model.id == model.id
    ]
    for tracked in waiting:
        end_in_queue(state, tracked, RequestState.FAILED, why)


def end(
    state: State,
    tracked: Tracked,
    ending: RequestState,
    failure: Failure | None = None,
    *,
    payload: object = None,
    outputs: OutputUnits = NO_OUTPUTS,
    lost: bool = False,
) -> None:
    """The terminal state of a request with an open attempt, and the bill for it."""
    attempt = opened(tracked)
    if lost:
        outcome, waived_for = Outcome.FAILED, WORKER_LOST
    else:
        outcome, waived_for = Outcome[ending.name], failure.reason if failure else ""
    ledger, settled = _close(state, tracked, outcome, waived_for, outputs)
    receipt = Receipt(
        request_id=attempt.request_id,
        model=tracked.job.model.id,
        attempts=tracked.attempts,
        queue_ms=attempt.placed_ms - tracked.job.submitted_ms,
        worker_id=attempt.worker_id,
        gpu_type=attempt.gpu_type,
        load_ms=attempt.load_ms,
        run_ms=attempt.metered_ms,
        billed_ms=ledger.billed_ms,
        price_nanodollars=ledger.price_nanodollars,
        rate_nanodollars_per_second=ledger.rate_nanodollars_per_second,
        price_version=attempt.price_version,
        start_tier=attempt.start_tier,
        placement=attempt.placement,
        waiver=ledger.waiver,
        unit=ledger.unit,
        micro_units=ledger.micro_units,
        unit_price_nanodollars=ledger.unit_price_nanodollars,
    )
    ended = RequestEnd(ending, state.now_ms, receipt, failure, payload)
    _forget(state, tracked, ending)
    state.out.append(JournalEnd(tracked.job, attempt, ledger, ended, settled))
    state.out.append(TellEnd(tracked.job, attempt.worker_id, tracked.attempts, ended))


def end_in_queue(state: State, tracked: Tracked, ending: RequestState, failure: Failure) -> None:
    """The terminal state of a request that waits: nothing runs, nothing is billed."""
    job = tracked.job
    state.queue.remove(job.request_id)
    state.limits.left(job)
    state.impatience.drop(job.request_id)
    state.last_starts.drop(job.request_id)
    unreserve(state, job.request_id)
    queue_ms = state.now_ms - job.submitted_ms
    receipt = Receipt(job.request_id, job.model.id, tracked.attempts, queue_ms)
    ended = RequestEnd(ending, state.now_ms, receipt, failure)
    _forget(state, tracked, ending)
    state.out.append(JournalEnd(job, None, None, ended))
    state.out.append(TellEnd(job, "", tracked.attempts, ended))


def _forget(state: State, tracked: Tracked, ending: RequestState) -> None:
    tracked.life.to(ending, state.now_ms)
    state.deadlines.drop(tracked.job.request_id)
    state.budgets.release(tracked.job.request_id)
    del state.requests[tracked.job.request_id]
    state.demands.ended(tracked.job, state.now_ms)


def _close(
    state: State,
    tracked: Tracked,
    outcome: Outcome,
    waived_for: str,
    outputs: OutputUnits = NO_OUTPUTS,
) -> tuple[LedgerLine, Settled]:
    """Closes the meter, ends the lease, settles the fair order; the bill."""
    attempt, job = opened(tracked), tracked.job
    billed = money.close(state, tracked, outcome, waived_for, outputs)
    state.ledger.release(attempt.attempt_id, state.now_ms)
    state.limits.ended(job)
    state.overstays.drop(job.request_id)
    if (worker := state.fleet.workers.get(attempt.worker_id)) is not None and worker.stop:
        tell_drain(state, worker)
    rate = attempt.rate_nanodollars_per_second
    cost_nanodollars = fair_nanodollars(attempt.metered_ms, rate)
    state.queue.charge(job.tenant, cost_nanodollars - tracked.charged_nanodollars)
    tracked.charged_nanodollars = 0.0
    tracked.attempt = None
    unreserve(state, job.request_id)
    return billed


def tell_drain(state: State, worker: Worker) -> None:
    """Passes a drain on. The order to stop waits until nothing is left, so that it can be undone
    until then."""
    if worker.draining and worker.connected and not (worker.stop and worker.held):
        state.out.append(SendDrain(worker.worker_id, worker.stop))
