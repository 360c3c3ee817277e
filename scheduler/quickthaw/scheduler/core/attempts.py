"""An attempt from placement to its end: the reservation, the news from its worker, the bill."""

from __future__ import annotations

import math
from dataclasses import replace

from quickthaw.scheduler.core.commands import (
    JournalEnd,
    JournalPlacement,
    JournalProgress,
    RequestEnd,
    Requeued,
    SendAssign,
    SendDrain,
    TellEnd,
    TellProgress,
    TellQueued,
)
from quickthaw.scheduler.core.events import AttemptFinished, AttemptLoading, AttemptRunning
from quickthaw.scheduler.core.fleet import Held, Worker
from quickthaw.scheduler.core.lifecycle import RequestState, path
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Candidate,
    Failure,
    LedgerLine,
    Outcome,
    Receipt,
    RequestId,
    Tier,
    WorkerId,
    attempt_id_of,
)
from quickthaw.scheduler.core.pricing import WORKER_LOST, bill
from quickthaw.scheduler.core.state import State, Tracked

DEADLINE_EXPIRED = "DEADLINE_EXPIRED"


# ---- begin -----------------------------------------------------------------------------------


def enqueue(state: State, tracked: Tracked, detail: str) -> None:
    """The request waits; its state is QUEUED already."""
    state.queue.add(tracked.job, tracked.rank, _expected_run_ms(state, tracked))
    position = state.queue.position(tracked.job.request_id, state.settings.queue_position_exact_max)
    state.out.append(
        TellQueued(tracked.job.request_id, state.now_ms, tracked.attempts, position, detail)
    )


def place(state: State, tracked: Tracked, chosen: Candidate, placement: str) -> bool:
    """Reserves, leases and assigns; False, with nothing changed, if the ledger refuses."""
    job, worker = tracked.job, state.fleet.workers[chosen.worker_id]
    number = tracked.attempts + 1
    attempt_id = attempt_id_of(job.request_id, number)
    seconds = chosen.drain_seconds + chosen.load_seconds + chosen.run_seconds
    held = Held(
        job.model,
        chosen.evict_digests,
        state.now_ms + math.ceil(seconds * 1000),
        chosen.load_seconds,
        chosen.start_tier,
    )
    evicts = state.ledger.grant(worker, attempt_id, job.request_id, held, state.now_ms)
    if evicts is None:
        return False
    open_attempt(state, tracked, worker, number, placement)
    state.out.append(SendAssign(worker.worker_id, attempt_id, number, job, evicts))
    return True


def open_attempt(
    state: State, tracked: Tracked, worker: Worker, number: int, placement: str
) -> None:
    """Takes the request out of the queue: the lease on this worker exists."""
    job = tracked.job
    tracked.charged_ms = state.queue.take(job.request_id)
    state.impatience.drop(job.request_id)
    unreserve(state, job.request_id)
    tracked.attempts = number
    tracked.attempt = AttemptRecord(
        attempt_id=attempt_id_of(job.request_id, number),
        request_id=job.request_id,
        number=number,
        worker_id=worker.worker_id,
        incarnation=worker.spec.incarnation,
        gpu_type=worker.spec.gpu_type,
        rate_nanodollars_per_second=worker.kind.rate_nanodollars_per_second,
        price_version=state.prices.version,
        placed_ms=state.now_ms,
        placement=placement,
    )
    tracked.life.to(RequestState.PLACED, state.now_ms, placement)
    state.out.append(JournalPlacement(tracked.attempt))
    _tell_progress(state, tracked, tracked.attempt, placement)


def unreserve(state: State, request_id: RequestId) -> None:
    """The request no longer keeps a worker free for itself."""
    worker_id = state.reservations.pop(request_id, None)
    worker = state.fleet.workers.get(worker_id) if worker_id is not None else None
    if worker is not None and worker.reserved_for == request_id:
        worker.reserved_for = None


# ---- news from the worker --------------------------------------------------------------------


def on_loading(state: State, event: AttemptLoading) -> None:
    if (tracked := owned(state, event.worker_id, event.attempt_id)) is not None:
        advance(state, tracked, RequestState.LOADING)


def on_running(state: State, event: AttemptRunning) -> None:
    if (tracked := owned(state, event.worker_id, event.attempt_id)) is not None:
        _note_load(state, tracked, event.load_ms, event.start_tier)
        advance(state, tracked, RequestState.RUNNING)


def on_finished(state: State, event: AttemptFinished) -> bool:
    """False if it is not the worker's attempt, or not any more."""
    tracked = owned(state, event.worker_id, event.attempt_id)
    if tracked is None:
        return False
    _note_load(state, tracked, event.load_ms, event.start_tier)
    meter(tracked, event.metered_ms)
    if event.outcome is Outcome.SUCCEEDED or event.metered_ms:
        advance(state, tracked, RequestState.RUNNING)
    stopping = tracked.stopping
    if stopping is not None and stopping.reason == DEADLINE_EXPIRED:
        end(state, tracked, RequestState.FAILED, stopping)
        return True
    match event.outcome:
        case Outcome.SUCCEEDED:
            _learn_run(state, tracked, event.metered_ms)
            end(state, tracked, RequestState.SUCCEEDED, payload=event.payload)
        case Outcome.FAILED:
            failure = event.failure or Failure("INTERNAL", "the worker gave no reason")
            end(state, tracked, RequestState.FAILED, failure, payload=event.payload)
        case Outcome.CANCELLED if stopping is not None:
            end(state, tracked, RequestState.CANCELLED, stopping, payload=event.payload)
        case Outcome.CANCELLED:
            lose(state, tracked, "its worker stopped it unasked", exclude=False)
    return True


def owned(state: State, worker_id: WorkerId, attempt_id: AttemptId) -> Tracked | None:
    """The request whose open attempt this is, if the worker holds its lease."""
    lease = state.ledger.get(attempt_id)
    worker = state.fleet.workers.get(worker_id)
    if lease is None or worker is None or lease.worker_id != worker_id:
        return None
    return (
        state.requests[lease.request_id] if lease.incarnation == worker.spec.incarnation else None
    )


def advance(state: State, tracked: Tracked, to: RequestState) -> None:
    """Follows the worker to LOADING or RUNNING through every state between; old news is nothing."""
    for step in path(tracked.life.state, to):
        attempt = _opened(tracked)
        if step is RequestState.LOADING:
            tracked.attempt = replace(attempt, loading_ms=state.now_ms)
        elif step is RequestState.RUNNING:
            tracked.attempt = replace(attempt, started_ms=state.now_ms)
            _expect_run_end(state, tracked, attempt)
        tracked.life.to(step, state.now_ms)
        state.out.append(JournalProgress(_opened(tracked), step))
        _tell_progress(state, tracked, attempt, "")


def meter(tracked: Tracked, metered_ms: int) -> bool:
    """Notes the run time so far; True if it is news. It never shrinks."""
    attempt = _opened(tracked)
    if metered_ms <= attempt.metered_ms:
        return False
    tracked.attempt = replace(attempt, metered_ms=metered_ms)
    return True


# ---- end -------------------------------------------------------------------------------------


def lose(state: State, tracked: Tracked, detail: str, *, exclude: bool = True) -> None:
    """The open attempt is gone without an end of its own: again elsewhere, if tries remain.

    `exclude`: the worker is to blame, the request shall not go there again.
    """
    attempt = _opened(tracked)
    if exclude:
        tracked.lost_on |= {attempt.worker_id}
    if (stopping := tracked.stopping) is not None:
        cancelled = stopping.reason != DEADLINE_EXPIRED
        ending = RequestState.CANCELLED if cancelled else RequestState.FAILED
        end(state, tracked, ending, stopping, lost=True)
    elif tracked.attempts >= state.settings.max_attempts:
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
    attempt = _opened(tracked)
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
    state.impatience.drop(job.request_id)
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
    attempt, job = _opened(tracked), tracked.job
    billed = bill(
        outcome, attempt.metered_ms, attempt.rate_nanodollars_per_second, waived_for=waived_for
    )
    state.ledger.release(attempt.attempt_id)
    if (worker := state.fleet.workers.get(attempt.worker_id)) is not None and worker.stop:
        tell_drain(state, worker)
    state.queue.charge(job.tenant, attempt.metered_ms - tracked.charged_ms)
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


# ---- small -----------------------------------------------------------------------------------


def _opened(tracked: Tracked) -> AttemptRecord:
    assert tracked.attempt is not None, f"{tracked.job.request_id} has no open attempt"
    return tracked.attempt


def _tell_progress(state: State, tracked: Tracked, attempt: AttemptRecord, detail: str) -> None:
    state.out.append(
        TellProgress(
            attempt.request_id,
            tracked.life.state,
            state.now_ms,
            attempt.worker_id,
            attempt.number,
            detail,
        )
    )


def _note_load(state: State, tracked: Tracked, load_ms: int, start_tier: Tier | None) -> None:
    """Keeps the first report of a load, and learns from it."""
    attempt = _opened(tracked)
    if attempt.start_tier is not None or start_tier is None:
        return
    tracked.attempt = replace(attempt, load_ms=load_ms, start_tier=start_tier)
    worker = state.fleet.workers[attempt.worker_id]
    held = worker.held[attempt.attempt_id]
    if held.load_tier is start_tier:
        state.estimates.loaded(
            attempt.worker_id, start_tier, held.expected_load_seconds, load_ms / 1000
        )


def _learn_run(state: State, tracked: Tracked, metered_ms: int) -> None:
    job, gpu_type = tracked.job, _opened(tracked).gpu_type
    state.estimates.ran(job.model.id, gpu_type, job.work_units, metered_ms / 1000)


def _expect_run_end(state: State, tracked: Tracked, attempt: AttemptRecord) -> None:
    """The run has begun: now its end is known better than at placement."""
    job = tracked.job
    run = state.estimates.run_seconds(job.model.id, attempt.gpu_type, job.work_units)
    worker = state.fleet.workers[attempt.worker_id]
    expected_end_ms = state.now_ms + math.ceil(run.p50 * 1000)
    state.fleet.expect_end(worker, attempt.attempt_id, expected_end_ms)


def _expected_run_ms(state: State, tracked: Tracked) -> float:
    """What the fair order charges until the meter says better."""
    job = tracked.job
    kind = next(iter(state.fleet.classes()), None)
    gpu_type = kind.gpu_type if kind is not None else ""
    return state.estimates.run_seconds(job.model.id, gpu_type, job.work_units).p50 * 1000
