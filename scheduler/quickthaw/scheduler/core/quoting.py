"""What a caller can be told before anything is accepted: a refusal, or a quote. Changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

from quickthaw.scheduler.core import money, quarantine
from quickthaw.scheduler.core.model import Estimate, Job, Quote, Tier, WorkerId
from quickthaw.scheduler.core.placement import place
from quickthaw.scheduler.core.pricing import RESERVED, dollars
from quickthaw.scheduler.core.query import Placement, Query, Unplaced
from quickthaw.scheduler.core.state import State
from quickthaw.wire.errors import (
    BudgetExhausted,
    DeadlineExpired,
    ModelCannotFit,
    ModelQuarantined,
    QueueFull,
    QuickthawError,
    Unavailable,
)


def admission_error(state: State, job: Job, now_ms: int) -> QuickthawError | None:
    """Why the request must not be journalled, or None."""
    return (
        _quarantined(state, job)
        or _impossible(state, job, now_ms)
        or money.refusal(state, job, now_ms)
        or _queue_full(state, job)
    )


def deadline_error(
    state: State, job: Job, now_ms: int, excluded: frozenset[WorkerId] = frozenset()
) -> DeadlineExpired | None:
    """None, or that no worker can finish the request by its deadline, with what would be possible.

    Counted is what surely comes before its end: on each worker that could ever hold it what is
    placed there already, the load, and the run, where it was learned; each at its median. Who else
    waits is not: the fair order may let this one go first.
    """
    if not job.deadline_ms:
        return None
    query = Query(job, excluded, patient=False, hypothetical=True)
    policy = state.settings.placement
    found = place(query, state.fleet, state.estimates, policy, now_ms)
    if isinstance(found, Placement):
        return None
    reasons = {refusal.reason for refusal in found.refusals}
    if "deadline" not in reasons or "reserved" in reasons:
        return None
    freely = query._replace(job=replace(job, deadline_ms=0))
    ends = [
        (each.drain_seconds + each.load_seconds + each.run_seconds, each.worker_id)
        for each in place(freely, state.fleet, state.estimates, policy, now_ms).candidates
    ]
    if not ends:
        return None
    seconds, worker_id = min(ends)
    allowed = (job.deadline_ms - now_ms) / 1000
    return DeadlineExpired(
        f"the deadline is {allowed:.1f} s from now and the earliest that the request could end is "
        f"{seconds:.1f} s from now, on {worker_id}; allow more time or ask for less work",
        metadata={"earliest_end_ms": str(now_ms + math.ceil(seconds * 1000))},
    )


def quote(state: State, job: Job, now_ms: int) -> Quote:
    """Raises what `admission_error` would return, and Unavailable while there is no worker to
    quote for."""
    if (error := admission_error(state, job, now_ms)) is not None:
        raise error
    query = Query(job, patient=False, hypothetical=True)
    found = place(query, state.fleet, state.estimates, state.settings.placement, now_ms)
    if isinstance(found, Unplaced):
        raise Unavailable(
            "no worker could take the request now; attach one, or uncordon one that is there"
        )
    chosen = found.chosen
    worker = state.fleet.workers[chosen.worker_id]
    run = state.estimates.run_seconds(job.model.id, worker.spec.gpu_type, job.work_units)
    spread = run.p95 / run.p50 if run.p50 > 0.0 else 1.0
    start_p50 = chosen.drain_seconds + _backlog_seconds(state)
    gpu_type, outputs = worker.spec.gpu_type, job.outputs
    p50, p95 = (
        state.prices.expected_nanodollars(job.model.id, gpu_type, outputs, seconds)
        for seconds in (run.p50, run.p95)
    )
    tariff, unit = money.tariff(state, job, worker)
    if unit == RESERVED:
        p50 = p95 = 0.0
    load_p95 = 0.0
    by_tier: dict[Tier, int] = {}
    for digest, size_bytes in job.model.sizes.items():
        if digest not in worker.planned:
            tier = worker.tier_below(digest)
            by_tier[tier] = by_tier.get(tier, 0) + size_bytes
    for tier, size_bytes in by_tier.items():
        load_p95 += state.estimates.load_seconds(chosen.worker_id, tier, size_bytes).p95
    return Quote(
        worker_id=chosen.worker_id,
        start_tier=chosen.start_tier,
        start_seconds=Estimate(start_p50, start_p50 * spread),
        load_seconds=Estimate(chosen.load_seconds, load_p95),
        run_seconds=run,
        price_nanodollars=Estimate(p50, p95, run.samples),
        rate_nanodollars_per_second=0 if unit else tariff.rate_nanodollars_per_second,
        price_version=state.prices.version,
    )


def _quarantined(state: State, job: Job) -> ModelQuarantined | None:
    known = quarantine.of(state, job.model)
    if known is None:
        return None
    metadata = {"model": job.model.id, "since_unix_ms": str(known.since_ms)}
    return ModelQuarantined(quarantine.told(known), metadata=metadata)


def _impossible(state: State, job: Job, now_ms: int) -> QuickthawError | None:
    if job.deadline_ms and job.deadline_ms <= now_ms:
        return DeadlineExpired(
            f"the deadline passed {now_ms - job.deadline_ms} ms ago; name a later one or none"
        )
    if (late := deadline_error(state, job, now_ms)) is not None:
        return late
    model = job.model
    wanted = model.weight_bytes + model.working_bytes
    classes = list(state.fleet.classes())
    fitting = [kind for kind in classes if kind.vram_bytes >= wanted]
    if classes and not fitting:
        largest = max(kind.vram_bytes for kind in classes)
        return ModelCannotFit(
            f"{model.id} needs {wanted} bytes of device memory and the largest attached worker "
            f"has {largest}; attach a larger one",
            metadata={"needs_bytes": str(wanted), "largest_bytes": str(largest)},
        )
    if (cap := job.price_cap_nanodollars) and fitting:
        lowest = min(
            round(
                state.prices.expected_nanodollars(
                    model.id,
                    kind.gpu_type,
                    job.outputs,
                    state.estimates.run_seconds(model.id, kind.gpu_type, job.work_units).p95,
                )
            )
            for kind in fitting
        )
        if lowest > cap:
            return BudgetExhausted(
                f"the price cap is {dollars(cap)} and the cheapest attached worker would take up "
                f"to {dollars(lowest)} (p95); raise the cap or ask for less work",
                metadata={"cap_nanodollars": str(cap), "p95_nanodollars": str(lowest)},
            )
    return None


def _queue_full(state: State, job: Job) -> QuickthawError | None:
    settings, queue = state.settings, state.queue
    if len(queue) >= settings.queue_max:
        told = f"{len(queue)} requests wait, which is the limit"
    elif (own := queue.length_of(job.tenant)) >= settings.queue_max_per_tenant:
        told = f"{own} requests of {job.tenant} wait, which is the limit for one tenant"
    else:
        return None
    delay = settings.queue_retry_seconds
    return QueueFull(f"{told}; try again in {delay:g} s", retry_delay_seconds=delay)


def _backlog_seconds(state: State) -> float:
    """The run time that waits now, spread over all that can run at once."""
    lanes = sum(w.spec.concurrency for w in state.fleet.workers.values() if w.ready)
    return state.queue.run_ms / 1000 / max(lanes, 1)
