"""Which worker runs a request: filter, score, choose, and say why. Pure; changes nothing.

The score follows `start = wait + load`, `finish = start + run` and

    score = (finish - now) + mu x load + lambda x price x (load + run) + nu x reload(evicted)

in seconds. The first term is ServerlessLLM's estimate (OSDI 2024) with the missing *components* in
place of the whole model; the others charge a request for what it costs others and its caller.
Candidates come from an index: those that hold something of the model, the least loaded of each
price class, the caller's hint; nearest first, until nobody farther away could win. Ties: the lower
score, then more of the model resident, then fewer attempts held, then the worker's id.

A worker that has the whole model but no place left is scored as well; where workers are scarce, few
in all or few idle, any full one is, and a load hides what runs beside it. If a full one wins, the
request waits for it (`Unplaced.waits_for`) rather than load a copy elsewhere; the machine bounds
the wait. It does not wait where another worker has the model, too, unless nobody else's request
could go first meanwhile: that would be unfair.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.model import Job, Tier, WorkerId
from quickthaw.scheduler.core.query import Placement, Query, Unplaced
from quickthaw.scheduler.core.scoring import Scorer
from quickthaw.scheduler.core.settings import PlacementPolicy
from quickthaw.scheduler.core.worker import Worker


def place(
    query: Query, fleet: Fleet, estimates: Estimates, policy: PlacementPolicy, now_ms: int
) -> Placement | Unplaced:
    """Looks at all workers of a small fleet, and at a bounded number of a large one's; at all of
    those that accept only if none of these can."""
    scorer = Scorer(query, fleet, estimates, policy, now_ms)
    if scorer.explains:
        scorer.look_at(fleet.workers.values())
    else:
        _look_at_nominees(scorer, query.job, fleet, policy)
    scorer.settle()
    if not scorer.found and not scorer.explains:
        if query.hypothetical:
            scorer.look_at(fleet.workers.values())
        elif fleet.open_count:
            for lot in fleet.lots():
                scorer.look_at(lot.least_loaded())
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
    scorer.look_at(workers)
    scorer.settle()
    return scorer.choose()


def _look_at_nominees(scorer: Scorer, job: Job, fleet: Fleet, policy: PlacementPolicy) -> None:
    """Nearest first. After each step those that could still win are fewer, and often none."""
    if job.worker_hint and (hinted := fleet.workers.get(WorkerId(job.worker_hint))) is not None:
        scorer.look_at((hinted,))
    pool = fleet.pool_of(job.model.id)
    lots = [lot for lot in fleet.lots() if lot.kind.dedicated_to == pool]
    nearest = Tier.VRAM
    """Where those not looked at have the largest component, at best."""
    sizes = iter(job.model.sizes)
    if (largest := next(sizes, None)) is not None:
        second = next(sizes, None)
        for tier, limit in (
            (Tier.VRAM, policy.resident_candidates),
            (Tier.PINNED, policy.resident_candidates // 2),
            (Tier.DISK, policy.idle_candidates),
        ):
            if found := fleet.holding(largest, tier):
                scorer.look_at(islice(found, limit))
            if nearest is tier and len(found) <= limit:
                nearest = Tier(tier + 1)
            if tier is Tier.PINNED and second is not None:
                scorer.look_at(islice(fleet.holding(second, Tier.VRAM), policy.idle_candidates))
            scorer.settle()
            if not (lots := scorer.beatable(lots, nearest)):
                return
    for lot in lots:
        scorer.look_at(lot.emptiest(policy.idle_candidates))
