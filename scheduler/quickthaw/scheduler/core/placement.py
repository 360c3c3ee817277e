"""Which worker runs a request: filter, score, choose, and say why. Pure; changes nothing.

The score follows `start = drain + load`, `finish = start + run` and

    score = (finish - now) + mu x load + lambda x price x (load + run) + nu x reload(evicted)

in seconds. The first term is ServerlessLLM's estimate (OSDI 2024) with the missing *components* in
place of the whole model; the others charge a request for what it costs others and its caller.
Candidates come from an index: those that hold something of the model, the least loaded of each
price class, the caller's hint. Ties: the lower score, then more of the model resident, then fewer
attempts held, then the worker's id.

A worker that has the whole model but no place left is scored as well. If it wins, the request
waits for it (`Unplaced.waits_for`) rather than load a copy elsewhere; the machine bounds the wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.fleet import Worker
from quickthaw.scheduler.core.index import Fleet
from quickthaw.scheduler.core.model import (
    Job,
    Tier,
    WorkerId,
)
from quickthaw.scheduler.core.query import Placement, Query, Unplaced
from quickthaw.scheduler.core.scoring import Scorer
from quickthaw.scheduler.core.settings import PlacementPolicy


def place(
    query: Query, fleet: Fleet, estimates: Estimates, policy: PlacementPolicy, now_ms: int
) -> Placement | Unplaced:
    """Looks at a bounded number of workers; at all that accept only if none of those can."""
    scorer = Scorer(query, fleet, estimates, policy, now_ms)
    for worker_id in _nominees(query.job, fleet, policy):
        scorer.look_at(fleet.workers[worker_id])
    scorer.settle()
    if not scorer.open and (fleet.open_count or query.hypothetical):
        scorer.look_at_everyone()
        scorer.settle()
    elif len(fleet.workers) <= policy.explain_workers_max:
        scorer.explain_everyone()
        scorer.settle()
    return scorer.choose()


def place_on(
    query: Query,
    workers: Iterable[Worker],
    fleet: Fleet,
    estimates: Estimates,
    policy: PlacementPolicy,
    now_ms: int,
) -> Placement | Unplaced:
    """As `place`, but of these workers only."""
    scorer = Scorer(query, fleet, estimates, policy, now_ms)
    for worker in workers:
        scorer.look_at(worker)
    scorer.settle()
    return scorer.choose()


def _nominees(job: Job, fleet: Fleet, policy: PlacementPolicy) -> list[WorkerId]:
    """May name a worker more than once."""
    named: list[WorkerId] = []
    if job.worker_hint and WorkerId(job.worker_hint) in fleet.workers:
        named.append(WorkerId(job.worker_hint))
    sizes = iter(job.model.sizes)
    largest = next(sizes, None)
    if largest is not None:
        limit = policy.resident_candidates
        named += islice(fleet.holders(largest, Tier.VRAM), limit)
        named += islice(fleet.holders(largest, Tier.PINNED), limit // 2)
        if (second := next(sizes, None)) is not None:
            named += islice(fleet.holders(second, Tier.VRAM), policy.idle_candidates)
        named += islice(fleet.holders(largest, Tier.DISK), policy.idle_candidates)
    pool = fleet.pool_of(job.model.id)
    for kind in fleet.classes():
        if kind.dedicated_to == pool:
            named += fleet.emptiest(kind, policy.idle_candidates)
    return named
