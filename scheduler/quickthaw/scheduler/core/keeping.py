"""Which copies are worth having, and how many: what the slow planner decides about one model.

A copy that nobody uses is kept while it is likely enough to be used soon, in money:

    hazard x cold cost > rate x share of the VRAM

with the hazard from the model's own pauses (`idle_times`), the cold cost what the caller and the
GPU lose while it loads again, and the rate and the share those of the worker that it lies on.
"""

from __future__ import annotations

import math
from enum import IntEnum

from quickthaw.scheduler.core.demand import Demand
from quickthaw.scheduler.core.model import EndpointSettings, ModelSpec, Tier
from quickthaw.scheduler.core.settings import SupplyPolicy
from quickthaw.scheduler.core.state import State
from quickthaw.scheduler.core.worker import Worker


class Standing(IntEnum):
    """How a copy is treated when room is needed."""

    COLD = -1
    """It goes before all others."""
    USED = 0
    """By what it costs to load again."""
    KEPT = 1
    """After all others: its endpoint wants it there."""


def copies_wanted(
    settings: EndpointSettings,
    demand: Demand | None,
    policy: SupplyPolicy,
    ready: int,
    now_ms: int,
    *,
    prewarm: bool,
) -> int:
    """Copies that the traffic of late and the endpoint's settings want. `ready`: workers that could
    have one. `prewarm`: its next request is likely soon."""
    needed = 0
    if demand is not None:
        load = demand.load(now_ms)
        if load >= policy.load_least:
            needed = math.ceil(load / policy.utilisation)
        if demand.uses.at(now_ms) >= policy.regular_uses and ready >= 3:
            needed = max(needed, 2)
        needed = min(needed, math.ceil(ready * policy.copies_share))
    if prewarm:
        needed = max(needed, 1)
    wanted = max(settings.min_replicas, needed + settings.buffer)
    return min(wanted, settings.max_replicas) if settings.max_replicas else wanted


def likely_soon(
    state: State, demand: Demand, settings: EndpointSettings, worker: Worker | None
) -> bool:
    """Whether an idle model's own pauses say that a copy is worth having now, or within the time
    that the planner takes to come round again. False where they say nothing."""
    if demand.idle_since_ms is None or settings.keep_alive_ms:
        return False
    policy = state.settings.supply
    idle_ms = state.now_ms - demand.idle_since_ms
    window = demand.pauses.window(policy.keep_alive_ms)
    if not window.learned:
        return False
    if not window.holds(idle_ms) and not window.holds(idle_ms + policy.interval_ms):
        return False
    return worker is None or _pays(state, demand, worker, idle_ms, window.until_ms)


def standing(
    state: State, demand: Demand, settings: EndpointSettings, worker: Worker, *, surplus: bool
) -> Standing:
    """How the copy on this worker is treated. `surplus`: there are more than wanted for long."""
    if demand.idle_since_ms is None:
        return Standing.COLD if surplus else Standing.USED
    idle_ms = state.now_ms - demand.idle_since_ms
    policy = state.settings.supply
    if settings.keep_alive_ms:
        kept = idle_ms <= settings.keep_alive_ms
    elif demand.pauses.representative():
        kept = likely_soon(state, demand, settings, worker)
    else:
        kept = idle_ms <= policy.keep_alive_ms
    return Standing.USED if kept and not surplus else Standing.COLD


def _pays(state: State, demand: Demand, worker: Worker, idle_ms: int, until_ms: int) -> bool:
    model, rate = demand.model, worker.kind.rate_nanodollars_per_second
    if not worker.spec.vram_bytes or not model.weight_bytes:
        return True
    worth = state.settings.placement.second_worth_nanodollars
    cold_cost = reload_seconds(state, model, worker) * (rate + worth)
    share = model.weight_bytes / worker.spec.vram_bytes
    return demand.pauses.hazard_per_second(idle_ms, until_ms) * cold_cost > rate * share


def reload_seconds(state: State, model: ModelSpec, worker: Worker) -> float:
    """To bring all of it to this worker's VRAM from where it is below that."""
    seconds = 0.0
    by_tier: dict[Tier, int] = {}
    for digest, size_bytes in model.sizes.items():
        tier = worker.tier_below(digest)
        by_tier[tier] = by_tier.get(tier, 0) + size_bytes
    for tier, size_bytes in by_tier.items():
        seconds += state.estimates.load_seconds(worker.worker_id, tier, size_bytes).p50
    return seconds
