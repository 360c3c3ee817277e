"""What a worker says of its attempts: loading, running, so far, finished."""

from __future__ import annotations

import math

from quickthaw.scheduler.core import money, quarantine, replan
from quickthaw.scheduler.core.attempts import opened, tell_progress
from quickthaw.scheduler.core.commands import (
    JournalProgress,
)
from quickthaw.scheduler.core.endings import (
    DEADLINE_EXPIRED,
    end,
    end_quarantined,
    lose,
    take_back,
    try_elsewhere,
)
from quickthaw.scheduler.core.events import AttemptFinished, AttemptLoading, AttemptRunning
from quickthaw.scheduler.core.lifecycle import RequestState, path
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Failure,
    Outcome,
    OutputUnits,
    Tier,
    WorkerId,
)
from quickthaw.scheduler.core.pricing import BUDGET_EXHAUSTED
from quickthaw.scheduler.core.state import State, Tracked


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
    if event.outcome is Outcome.SUCCEEDED or event.metered_ms:
        advance(state, tracked, RequestState.RUNNING, metered_ms=event.metered_ms)
    meter(tracked, event.metered_ms)
    stopping = tracked.stopping
    if stopping is not None and stopping.reason == DEADLINE_EXPIRED:
        end(state, tracked, RequestState.FAILED, stopping)
        return True
    match event.outcome:
        case Outcome.SUCCEEDED:
            _learn_run(state, tracked, event.metered_ms)
            outputs = _delivered(tracked, event)
            end(state, tracked, RequestState.SUCCEEDED, payload=event.payload, outputs=outputs)
        case Outcome.FAILED:
            failure = event.failure or Failure("INTERNAL", "the worker gave no reason")
            if failure.reason == BUDGET_EXHAUSTED:
                _out_of_money(state, tracked, event)
                return True
            loading = tracked.life.state is RequestState.LOADING
            model = tracked.job.model
            quarantined = loading and quarantine.note_load_failure(
                state, model, event.worker_id, failure
            )
            if quarantined or not (loading and try_elsewhere(state, tracked, failure)):
                end(state, tracked, RequestState.FAILED, failure, payload=event.payload)
            if quarantined:
                end_quarantined(state, model)
        case Outcome.CANCELLED if stopping is not None:
            unpaid = stopping.reason == BUDGET_EXHAUSTED
            ending = RequestState.FAILED if unpaid else RequestState.CANCELLED
            end(state, tracked, ending, stopping, payload=event.payload)
        case Outcome.CANCELLED if tracked.moving:
            take_back(state, tracked)
        case Outcome.CANCELLED:
            lose(state, tracked, "its worker stopped it unasked", exclude=False)
    return True


def _out_of_money(state: State, tracked: Tracked, event: AttemptFinished) -> None:
    """The worker stopped at the end of its meter lease. If that could have been extended, it only
    did not hear so, which is not the caller's affair: free, and tried again."""
    why = tracked.stopping or money.exhausted(state, tracked)
    if why is None:
        lose(state, tracked, "its worker heard of no further meter lease", exclude=False)
    else:
        unpaid = why.reason == BUDGET_EXHAUSTED
        ending = RequestState.FAILED if unpaid else RequestState.CANCELLED
        end(state, tracked, ending, why, payload=event.payload)


def _delivered(tracked: Tracked, event: AttemptFinished) -> OutputUnits:
    """What the worker says, and of a video whose length it does not say what was asked for."""
    outputs = event.outputs
    if outputs.images or outputs.video_ms:
        return outputs
    return outputs._replace(video_ms=tracked.job.outputs.video_ms)


def owned(state: State, worker_id: WorkerId, attempt_id: AttemptId) -> Tracked | None:
    """The request whose open attempt this is, if the worker holds its lease."""
    lease = state.ledger.get(attempt_id)
    worker = state.fleet.workers.get(worker_id)
    if lease is None or worker is None or lease.worker_id != worker_id:
        return None
    return (
        state.requests[lease.request_id] if lease.incarnation == worker.spec.incarnation else None
    )


def advance(
    state: State, tracked: Tracked, to: RequestState, *, metered_ms: int | None = None
) -> None:
    """Follows the worker to LOADING or RUNNING through every state between; old news is nothing.
    `metered_ms`: how long it ran, if its end is known too, which is then foretold no more."""
    steps = path(tracked.life.state, to)
    if not steps:
        return
    attempt, now_ms = opened(tracked), state.now_ms
    loading_ms = now_ms if RequestState.LOADING in steps else attempt.loading_ms
    runs = to is RequestState.RUNNING
    tracked.attempt = advanced = attempt._replace(
        loading_ms=loading_ms,
        started_ms=now_ms if runs else attempt.started_ms,
        metered_ms=max(attempt.metered_ms, metered_ms or 0),
    )
    if runs:
        quarantine.note_run(state, tracked.job.model)
        if metered_ms is None:
            _expect_run_end(state, tracked, attempt)
    # Of what it has come to only the newest counts; whoever watches is told of each step.
    state.out.append(JournalProgress(advanced, to))
    for step in steps:
        tracked.life.to(step, now_ms)
        tell_progress(state, tracked, attempt, "")


def meter(tracked: Tracked, metered_ms: int) -> bool:
    """Notes the run time so far; True if it is news. It never shrinks."""
    attempt = opened(tracked)
    if metered_ms <= attempt.metered_ms:
        return False
    tracked.attempt = attempt._replace(metered_ms=metered_ms)
    return True


def _note_load(state: State, tracked: Tracked, load_ms: int, start_tier: Tier | None) -> None:
    """Keeps the first report of a load, and learns from it."""
    attempt = opened(tracked)
    if attempt.start_tier is not None or start_tier is None:
        return
    tracked.attempt = attempt._replace(load_ms=load_ms, start_tier=start_tier)
    worker = state.fleet.workers[attempt.worker_id]
    held = worker.held[attempt.attempt_id]
    if held.load_tier is start_tier:
        state.estimates.loaded(
            attempt.worker_id, start_tier, held.expected_load_seconds, load_ms / 1000
        )


def _learn_run(state: State, tracked: Tracked, metered_ms: int) -> None:
    job, gpu_type = tracked.job, opened(tracked).gpu_type
    state.estimates.ran(job.model.id, gpu_type, job.work_units, metered_ms / 1000)


def _expect_run_end(state: State, tracked: Tracked, attempt: AttemptRecord) -> None:
    """The run has begun: now its end is known better than at placement."""
    job = tracked.job
    run = state.estimates.run_seconds(job.model.id, attempt.gpu_type, job.work_units)
    worker = state.fleet.workers[attempt.worker_id]
    replan.expect_end(state, job.request_id, run.p50)
    expected_end_ms = state.now_ms + math.ceil(run.p50 * 1000)
    state.fleet.run(worker, attempt.attempt_id, expected_end_ms, state.now_ms)
