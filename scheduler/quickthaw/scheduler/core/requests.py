"""What callers and time do to a request: it arrives, is cancelled, passes its deadline."""

from __future__ import annotations

from quickthaw.scheduler.core import money, supply
from quickthaw.scheduler.core.attempts import enqueue
from quickthaw.scheduler.core.commands import JournalCancel, SendCancel
from quickthaw.scheduler.core.endings import DEADLINE_EXPIRED, end_in_queue
from quickthaw.scheduler.core.events import CancelRequested, RequestJournalled, RequestRecovered
from quickthaw.scheduler.core.lifecycle import Life, RequestState, path
from quickthaw.scheduler.core.model import Failure, Job
from quickthaw.scheduler.core.quoting import deadline_error
from quickthaw.scheduler.core.state import State, Tracked


def on_journalled(state: State, event: RequestJournalled) -> None:
    if event.job.request_id not in state.requests:
        enqueue(state, _track(state, event.job, "accepted"), "")
        run_ms = state.queue.get(event.job.request_id).run_ms
        supply.note_arrival(state, event.job, run_ms / 1000)


def on_recovered(state: State, event: RequestRecovered) -> None:
    supply.note_arrival(state, event.job)
    tracked = _track(state, event.job, "recovered")
    tracked.attempts = event.attempts
    tracked.lost_on, tracked.killed_on = event.lost_on, event.killed_on
    cancelled = Failure("CANCELLED", "cancelled by the caller")
    if (attempt := event.open_attempt) is None:
        enqueue(state, tracked, "recovered")
        if event.cancel_requested:
            end_in_queue(state, tracked, RequestState.CANCELLED, cancelled)
        return
    tracked.attempts = max(event.attempts, attempt.number)
    tracked.attempt = attempt
    state.limits.started(tracked.job)
    tracked.life.to(RequestState.PLACED, state.now_ms, "recovered")
    for step in path(RequestState.PLACED, event.open_state):
        tracked.life.to(step, state.now_ms, "recovered")
    if event.cancel_requested:
        tracked.stopping = cancelled
    money.begin(state, tracked)
    # The worker has a whole lease from now to come back and say that it still has the attempt.
    state.ledger.lease(
        attempt.attempt_id,
        attempt.request_id,
        attempt.worker_id,
        attempt.incarnation,
        state.now_ms,
    )


def on_cancel(state: State, event: CancelRequested) -> None:
    tracked = state.requests.get(event.request_id)
    if tracked is None:
        return
    failure = Failure("CANCELLED", event.detail)
    if tracked.life.state is RequestState.QUEUED:
        end_in_queue(state, tracked, RequestState.CANCELLED, failure)
    elif tracked.stopping is None:
        state.out.append(JournalCancel(event.request_id))
        _stop(state, tracked, failure)


def expire_deadlines(state: State) -> None:
    for request_id in state.deadlines.due(state.now_ms):
        tracked = state.requests[request_id]
        if not tracked.job.deadline_ms or state.now_ms < tracked.job.deadline_ms:
            _expire_start(state, tracked)
            continue
        allowed_ms = tracked.job.deadline_ms - tracked.job.submitted_ms
        failure = Failure(
            DEADLINE_EXPIRED,
            f"the request had not ended by its deadline, {allowed_ms / 1000:g} s after it was "
            "submitted; allow more time or ask for less work",
        )
        if tracked.life.state is RequestState.QUEUED:
            end_in_queue(state, tracked, RequestState.FAILED, failure)
        elif tracked.stopping is None:
            _stop(state, tracked, failure)


def end_the_hopeless(state: State) -> None:
    """Looks again at those that wait whose last moment to start has come."""
    for request_id in state.last_starts.due(state.now_ms):
        end_if_hopeless(state, state.requests[request_id])


def end_if_hopeless(state: State, tracked: Tracked) -> bool:
    """Ends a request that waits and that no worker can finish in time any more; True if it did."""
    error = deadline_error(state, tracked.job, state.now_ms, tracked.lost_on)
    if error is None:
        return False
    end_in_queue(state, tracked, RequestState.FAILED, Failure(DEADLINE_EXPIRED, error.message))
    return True


def _expire_start(state: State, tracked: Tracked) -> None:
    """The start deadline has passed, the other has not. What was begun once has met it."""
    job = tracked.job
    if tracked.life.state is RequestState.QUEUED and not tracked.attempts:
        allowed_ms = job.start_deadline_ms - job.submitted_ms
        failure = Failure(
            "START_TIMEOUT",
            f"no worker had begun the request {allowed_ms / 1000:g} s after it was submitted, "
            "which is all that its caller allowed",
        )
        end_in_queue(state, tracked, RequestState.FAILED, failure)
    elif job.deadline_ms:
        state.deadlines.set(job.request_id, job.deadline_ms)


def pay_on(state: State, tracked: Tracked) -> int:
    """Pays for more of the open attempt, or has it stopped; until how many metered milliseconds it
    is paid for, 0 for no limit."""
    if tracked.stopping is None and (unpaid := money.extend(state, tracked)) is not None:
        _stop(state, tracked, unpaid)
    return money.meter_lease_ms(state, tracked)


def resend_cancel(state: State, tracked: Tracked) -> None:
    """Asks the worker to stop the open attempt, if that is wanted and the worker can hear."""
    attempt = tracked.attempt
    if attempt is None or tracked.stopping is None:
        return
    worker = state.fleet.workers.get(attempt.worker_id)
    if worker is not None and worker.connected:
        state.out.append(
            SendCancel(attempt.worker_id, attempt.attempt_id, tracked.stopping.message)
        )


def _stop(state: State, tracked: Tracked, failure: Failure) -> None:
    tracked.stopping = failure
    resend_cancel(state, tracked)


def _track(state: State, job: Job, detail: str) -> Tracked:
    life = Life(job.request_id, state.now_ms, detail)
    tracked = Tracked(job, life, state.queue.rank(job))
    state.requests[job.request_id] = tracked
    money.hold(state, job)
    if times_ms := [each for each in (job.start_deadline_ms, job.deadline_ms) if each]:
        state.deadlines.set(job.request_id, min(times_ms))
    return tracked
