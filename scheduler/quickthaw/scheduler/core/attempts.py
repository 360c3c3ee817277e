"""How an attempt begins: from the queue to a reservation, a lease and an Assign."""

from __future__ import annotations

import math

from quickthaw.scheduler.core import money
from quickthaw.scheduler.core.commands import (
    JournalPlacement,
    SendAssign,
    TellProgress,
    TellQueued,
)
from quickthaw.scheduler.core.decisions import Candidate
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptId, AttemptRecord, Job, RequestId, attempt_id_of
from quickthaw.scheduler.core.state import State, Tracked
from quickthaw.scheduler.core.whereabouts import whereabouts
from quickthaw.scheduler.core.worker import Held, Worker

FREE_RATE_NANODOLLARS_PER_SECOND = 1_000
"""At least so much does a second count for in the fair order, whatever it is sold for."""


def enqueue(state: State, tracked: Tracked, detail: str) -> None:
    """The request waits; its state is QUEUED already."""
    run_ms, cost_nanodollars = _expected(state, tracked.job)
    waiting = state.queue.add(tracked.job, tracked.rank, cost_nanodollars, run_ms)
    state.limits.queued(waiting)
    if deadline_ms := tracked.job.deadline_ms:
        state.last_starts.set(tracked.job.request_id, deadline_ms - math.ceil(run_ms))
    position = state.queue.position(tracked.job.request_id, state.settings.queue_position_exact_max)
    state.out.append(
        TellQueued(tracked.job.request_id, state.now_ms, tracked.attempts, position, detail)
    )


def place(
    state: State,
    tracked: Tracked,
    chosen: Candidate,
    placement: str,
    run: AttemptId | None = None,
) -> bool:
    """Reserves, leases and assigns; False, with nothing changed, if the ledger refuses. `run` is
    the first attempt of the batch that it is to be part of."""
    job, worker = tracked.job, state.fleet.workers[chosen.worker_id]
    number = tracked.attempts + 1
    attempt_id = attempt_id_of(job.request_id, number)
    load_ms = math.ceil(chosen.load_seconds * 1000)
    run_ms = math.ceil(chosen.run_seconds * 1000)
    sizes = job.model.sizes
    loaded_ms = max(state.now_ms, worker.loads_until_ms) + load_ms if load_ms else 0
    if not load_ms and not worker.coming.isdisjoint(sizes):
        loaded_ms = worker.loads_until_ms  # part of it is on its way for another
    held = Held(
        job.model,
        chosen.evict_digests,
        state.now_ms + math.ceil(chosen.drain_seconds * 1000) + load_ms + run_ms,
        expected_run_ms=run_ms,
        loaded_ms=loaded_ms,
        expected_load_seconds=chosen.load_seconds,
        load_tier=chosen.start_tier,
        brings=sizes.keys() - worker.planned.keys() if load_ms else (),
    )
    held.run = run
    evicts = state.ledger.grant(worker, attempt_id, job.request_id, held, state.now_ms)
    if evicts is None:
        return False
    rate = worker.kind.rate_nanodollars_per_second
    cost_nanodollars = fair_nanodollars(chosen.run_seconds * 1000, rate)
    open_attempt(state, tracked, worker, number, placement, cost_nanodollars)
    if tracked.killed_on:
        # Nothing else is placed beside it until it has ended.
        worker.reserved_for = job.request_id
        state.reservations[job.request_id] = worker.worker_id
    elsewhere = whereabouts(state.fleet, worker, job.model)
    paid_ms = money.meter_lease_ms(state, tracked)
    state.out.append(
        SendAssign(worker.worker_id, attempt_id, number, job, evicts, elsewhere, paid_ms)
    )
    return True


def open_attempt(
    state: State,
    tracked: Tracked,
    worker: Worker,
    number: int,
    placement: str,
    cost_nanodollars: float | None = None,
) -> None:
    """Takes the request out of the queue: the lease on this worker exists. Its tenant is charged
    `cost_nanodollars` in the fair order, or what was foreseen."""
    job = tracked.job
    tracked.charged_nanodollars = state.queue.take(job.request_id, cost_nanodollars)
    state.limits.started(job)
    state.impatience.drop(job.request_id)
    state.last_starts.drop(job.request_id)
    unreserve(state, job.request_id)
    tracked.attempts = number
    tariff, unit = money.tariff(state, job, worker)
    tracked.attempt = AttemptRecord(
        attempt_id=attempt_id_of(job.request_id, number),
        request_id=job.request_id,
        number=number,
        worker_id=worker.worker_id,
        incarnation=worker.spec.incarnation,
        gpu_type=worker.spec.gpu_type,
        rate_nanodollars_per_second=tariff.rate_nanodollars_per_second,
        price_version=state.prices.version,
        placed_ms=state.now_ms,
        placement=placement,
        unit=unit,
        unit_price_nanodollars=tariff.unit_price_nanodollars,
    )
    money.begin(state, tracked)
    tracked.life.to(RequestState.PLACED, state.now_ms, placement)
    state.out.append(JournalPlacement(tracked.attempt))
    tell_progress(state, tracked, tracked.attempt, placement)


def unreserve(state: State, request_id: RequestId) -> None:
    """The request no longer keeps a worker free for itself."""
    worker_id = state.reservations.pop(request_id, None)
    worker = state.fleet.workers.get(worker_id) if worker_id is not None else None
    if worker is not None and worker.reserved_for == request_id:
        worker.reserved_for = None
        state.fleet.note_change(worker)


def opened(tracked: Tracked) -> AttemptRecord:
    assert tracked.attempt is not None, f"{tracked.job.request_id} has no open attempt"
    return tracked.attempt


def tell_progress(state: State, tracked: Tracked, attempt: AttemptRecord, detail: str) -> None:
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


def fair_nanodollars(metered_ms: float, rate_nanodollars_per_second: int) -> float:
    """What GPU time counts for in the fair order: what it costs; where it costs nothing, time."""
    return metered_ms * max(rate_nanodollars_per_second, FREE_RATE_NANODOLLARS_PER_SECOND) / 1000


def _expected(state: State, job: Job) -> tuple[float, float]:
    """The run's time in milliseconds, and what the fair order foresees until a worker is chosen."""
    kind = next(iter(state.fleet.classes()), None)
    gpu_type = kind.gpu_type if kind is not None else ""
    run_ms = state.estimates.run_seconds(job.model.id, gpu_type, job.work_units).p50 * 1000
    rate = kind.rate_nanodollars_per_second if kind is not None else state.prices.rate("")
    return run_ms, fair_nanodollars(run_ms, rate)
