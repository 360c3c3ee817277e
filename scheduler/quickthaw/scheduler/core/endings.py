"""How attempts and requests end: lost and queued again, or terminal, with the bill."""

from __future__ import annotations

from quickthaw.scheduler.core.attempts import enqueue, fair_nanodollars, opened, unreserve
from quickthaw.scheduler.core.commands import (
    JournalEnd,
    RequestEnd,
    Requeued,
    SendDrain,
    TellEnd,
)
from quickthaw.scheduler.core.fleet import Worker
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    Failure,
    LedgerLine,
    Outcome,
    Receipt,
)
from quickthaw.scheduler.core.pricing import WORKER_LOST, bill
from quickthaw.scheduler.core.state import State, Tracked

DEADLINE_EXPIRED = "DEADLINE_EXPIRED"


def lose(state: State, tracked: Tracked, detail: str, *, exclude: bool = True) -> None:
    """The open attempt is gone without an end of its own: again elsewhere, if tries remain.

    `exclude`: the worker is to blame, the request shall not go there again.
    """
    attempt = opened(tracked)
    if exclude:
        tracked.lost_on |= {attempt.worker_id}
    if (stopping := tracked.stopping) is not None:
        cancelled = stopping.reason != DEADLINE_EXPIRED
        ending = RequestState.CANCELLED if cancelled else RequestState.FAILED
        end(state, tracked, ending, stopping, lost=True)
    elif tracked.attempts >= (tracked.job.attempts_max or state.settings.max_attempts):
        message = f"all {tracked.attempts} attempts were lost, the last because {detail}"
        failure = Failure("ATTEMPTS_EXHAUSTED", message, retryable=True)
        end(state, tracked, RequestState.FAILED, failure, lost=True)
    else:
        ledger = _close(state, tracked, Outcome.FAILED, WORKER_LOST)
        told = f"attempt {attempt.number} on {attempt.worker_id} was lost: {detail}"
        state.out.append(JournalEnd(tracked.job, attempt, ledger, Requeued(told)))
        tracked.life.to(RequestState.QUEUED, state.now_ms, told)
        enqueue(state, tracked, told)


def end(
    state: State,
    tracked: Tracked,
    ending: RequestState,
    failure: Failure | None = None,
    *,
    payload: object = None,
    lost: bool = False,
) -> None:
    """The terminal state of a request with an open attempt, and the bill for it."""
    attempt = opened(tracked)
    if lost:
        outcome, waived_for = Outcome.FAILED, WORKER_LOST
    else:
        outcome, waived_for = Outcome[ending.name], failure.reason if failure else ""
    ledger = _close(state, tracked, outcome, waived_for)
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
        rate_nanodollars_per_second=attempt.rate_nanodollars_per_second,
        price_version=attempt.price_version,
        start_tier=attempt.start_tier,
        placement=attempt.placement,
        waiver=ledger.waiver,
    )
    ended = RequestEnd(ending, state.now_ms, receipt, failure, payload)
    _forget(state, tracked, ending)
    state.out.append(JournalEnd(tracked.job, attempt, ledger, ended))
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
    del state.requests[tracked.job.request_id]


def _close(state: State, tracked: Tracked, outcome: Outcome, waived_for: str) -> LedgerLine:
    """Closes the meter, ends the lease, settles the fair order; the ledger line."""
    attempt, job = opened(tracked), tracked.job
    billed = bill(
        outcome, attempt.metered_ms, attempt.rate_nanodollars_per_second, waived_for=waived_for
    )
    state.ledger.release(attempt.attempt_id, state.now_ms)
    state.limits.ended(job)
    if (worker := state.fleet.workers.get(attempt.worker_id)) is not None and worker.stop:
        tell_drain(state, worker)
    rate = attempt.rate_nanodollars_per_second
    cost_nanodollars = fair_nanodollars(attempt.metered_ms, rate)
    state.queue.charge(job.tenant, cost_nanodollars - tracked.charged_nanodollars)
    tracked.charged_nanodollars = 0.0
    tracked.attempt = None
    return LedgerLine(
        attempt_id=attempt.attempt_id,
        request_id=job.request_id,
        tenant=job.tenant,
        model=job.model.id,
        worker_id=attempt.worker_id,
        gpu_type=attempt.gpu_type,
        attempt=attempt.number,
        outcome=outcome,
        closed_ms=state.now_ms,
        metered_ms=attempt.metered_ms,
        billed_ms=billed.billed_ms,
        rate_nanodollars_per_second=attempt.rate_nanodollars_per_second,
        price_nanodollars=billed.price_nanodollars,
        price_version=attempt.price_version,
        waiver=billed.waiver,
    )


def tell_drain(state: State, worker: Worker) -> None:
    """Passes a drain on. The order to stop waits until nothing is left, so that it can be undone
    until then."""
    if worker.draining and worker.connected and not (worker.stop and worker.held):
        state.out.append(SendDrain(worker.worker_id, worker.stop))
