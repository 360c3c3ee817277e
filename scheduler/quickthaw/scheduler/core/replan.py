"""Second thoughts: an attempt behind a run that overstays is taken back and placed elsewhere.

A worker holds the next attempt while it runs one, so that the load overlaps the run. That is a bet
on when the run ends. When it is lost, two things follow:

- The run is expected to take as long again as it has taken already: of heavy-tailed run times that
  is the usual guess (Lindy's), and what matters is that nothing more is placed behind it for free.
- What waits behind it moves, if another worker would have it done sooner even with the load that
  it needs there. The worker is asked to stop the attempt; only when it says that it did, the
  request is queued again, in its old place. So no two workers ever have it.
"""

from __future__ import annotations

import math

from quickthaw.scheduler.core.commands import SendCancel
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptId, AttemptRecord, RequestId
from quickthaw.scheduler.core.placement import place
from quickthaw.scheduler.core.query import Placement, Query
from quickthaw.scheduler.core.state import State, Tracked
from quickthaw.scheduler.core.worker import Held, Worker

TOLD = "the run before it takes longer than expected, and another worker can begin sooner"


def expect_end(state: State, request_id: RequestId, run_seconds: float) -> None:
    """A run began that should take so long; looks again when it has overstayed."""
    settings = state.settings
    grace_ms = max(settings.overstay_least_ms, settings.overstay_share * run_seconds * 1000)
    state.overstays.set(request_id, state.now_ms + math.ceil(run_seconds * 1000 + grace_ms))


def reconsider(state: State) -> None:
    """For each run that should have ended by now."""
    for request_id in state.overstays.due(state.now_ms):
        tracked = state.requests.get(request_id)
        attempt = tracked.attempt if tracked is not None else None
        if tracked is None or attempt is None or tracked.life.state is not RequestState.RUNNING:
            continue
        elapsed_ms = max(1, state.now_ms - attempt.started_ms)
        again_ms = max(state.settings.overstay_least_ms, elapsed_ms // 2)
        state.overstays.set(request_id, state.now_ms + again_ms)
        worker = state.fleet.workers.get(attempt.worker_id)
        if worker is not None and attempt.attempt_id in worker.held:
            _overstays(state, worker, attempt, elapsed_ms)


def _overstays(state: State, worker: Worker, running: AttemptRecord, elapsed_ms: int) -> None:
    end_ms = state.now_ms + elapsed_ms
    state.fleet.run(worker, running.attempt_id, end_ms, state.now_ms)
    for attempt_id, held in list(worker.held.items()):
        lease = state.ledger.get(attempt_id)
        if held.running or lease is None or held.ended_ms is not None:
            continue
        _move(state, worker, attempt_id, held, state.requests[lease.request_id])


def _move(
    state: State, worker: Worker, attempt_id: AttemptId, held: Held, tracked: Tracked
) -> None:
    if tracked.stopping is not None or not worker.connected:
        return
    if not tracked.moving:
        if tracked.moves >= state.settings.moves_max or not _sooner_elsewhere(
            state, worker, held, tracked
        ):
            return
        tracked.moving = True
    # Also once more, if the worker did not answer the first time.
    state.out.append(SendCancel(worker.worker_id, attempt_id, TOLD))


def _sooner_elsewhere(state: State, worker: Worker, held: Held, tracked: Tracked) -> bool:
    job = tracked.job
    run = state.estimates.run_seconds(job.model.id, worker.kind.gpu_type, job.work_units)
    here_seconds = max(0, worker.begins_ms(held) - state.now_ms) / 1000 + run.p50
    query = Query(job, tracked.lost_on | {worker.worker_id}, patient=False)
    found = place(query, state.fleet, state.estimates, state.settings.placement, state.now_ms)
    if not isinstance(found, Placement) or found.chosen.worker_id == worker.worker_id:
        return False
    there = found.chosen
    there_seconds = there.drain_seconds + there.load_seconds + there.run_seconds
    # The load is charged once more, as in placement: the one here was for nothing.
    return there_seconds + there.load_term_seconds + there.eviction_term_seconds < here_seconds
