"""The slow planner: how many copies of which model, where, and how many workers.

It runs every few seconds beside the fast core, looks at a bounded number of models and workers each
time and goes on with the others the next time. It places nothing: what it does is hints
(`SendPrefetch`, `SendUnload`) and the order in which components leave (`Fleet.rank`).

A prefetch never delays a request. It is sent to a worker that holds nothing, into room that is
free; what it brings counts as the first to go; and the worker gives it up for any Assign of
something else, which evicts what of it has arrived.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from quickthaw.scheduler.core.commands import SendPrefetch, SendUnload
from quickthaw.scheduler.core.demand import Demand
from quickthaw.scheduler.core.endpoints import replicas
from quickthaw.scheduler.core.keeping import (
    Standing,
    copies_wanted,
    likely_soon,
    reload_seconds,
    standing,
)
from quickthaw.scheduler.core.model import Digest, Job, ModelId, ModelSpec, Tier, WorkerId
from quickthaw.scheduler.core.reservations import settle
from quickthaw.scheduler.core.state import State
from quickthaw.scheduler.core.whereabouts import whereabouts
from quickthaw.scheduler.core.worker import Worker

_T = TypeVar("_T")

IDLE_LOOKED_AT_MAX = 64
"""Idle workers of a class that are compared for one prefetch."""


def note_arrival(state: State, job: Job, run_seconds: float | None = None) -> None:
    """`run_seconds`: how long it is expected to run, if that is known already."""
    if run_seconds is not None:
        state.demands.arrived(job, run_seconds, state.now_ms)
        return
    kind = next(iter(state.fleet.classes()), None)
    gpu_type = kind.gpu_type if kind is not None else ""
    run = state.estimates.run_seconds(job.model.id, gpu_type, job.work_units)
    state.demands.arrived(job, run.p50, state.now_ms)


def next_ms(state: State) -> int | None:
    """When it is due; None while there is nothing to plan for."""
    return state.supply.due_ms if _interval_ms(state) and state.fleet.workers else None


def run_if_due(state: State) -> None:
    interval_ms = _interval_ms(state)
    if interval_ms and state.now_ms >= state.supply.due_ms:
        state.supply.due_ms = state.now_ms + interval_ms
        if state.fleet.workers:
            settle(state)
            if state.settings.supply.interval_ms:
                _Round(state).run()


def _interval_ms(state: State) -> int:
    """What is reserved is billed also where nothing is planned."""
    settings = state.settings
    return settings.supply.interval_ms or (
        settings.reservation_span_ms if state.fleet.dedicated else 0
    )


def workers_wanted(state: State, now_ms: int) -> int:
    """Workers that would carry the traffic of late, what waits, and what endpoints want kept. Fewer
    only after that has been so for `scale_down_delay_ms`."""
    supply, policy = state.supply, state.settings.supply
    wanted = _workers_needed(state, now_ms)
    if wanted >= supply.wanted_workers:
        supply.wanted_workers, supply.fewer_since_ms = wanted, None
    elif supply.fewer_since_ms is None:
        supply.fewer_since_ms = now_ms
    elif now_ms - supply.fewer_since_ms >= policy.scale_down_delay_ms:
        supply.wanted_workers, supply.fewer_since_ms = wanted, None
    return supply.wanted_workers


def _workers_needed(state: State, now_ms: int) -> int:
    policy, demands = state.settings.supply, state.demands
    places = [worker.spec.concurrency for worker in state.fleet.workers.values()]
    at_once = max(1.0, sum(places) / len(places)) if places else 1.0
    load = demands.load(now_ms)
    busy = load / policy.utilisation if load >= policy.load_least else 0.0
    backlog = len(state.queue) * max(demands.run_seconds, 0.1) / policy.backlog_seconds
    shared = math.ceil((busy + backlog) / at_once)
    if not shared and state.requests:
        shared = 1
    room = max((worker.spec.vram_bytes for worker in state.fleet.workers.values()), default=0)
    reserved = kept = spread = 0
    for model, settings in state.endpoints.items():
        if settings.dedicated:
            reserved += settings.reserved_workers
        elif settings.min_replicas:
            spread = max(spread, settings.min_replicas)
            spec = state.specs.get(model)
            kept += settings.min_replicas * (spec.weight_bytes if spec is not None else 0)
    held = math.ceil(kept / room) if room else 0
    return max(shared, held, spread) + reserved


class _Round:
    """One run."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._policy = state.settings.supply
        self._left = self._policy.prefetches_max
        self._surplus: dict[ModelId, bool] = {}

    def run(self) -> None:
        self._expire()
        models = list(self._models())
        for model, demand in models:
            self._supply(model, demand)
        for worker in self._workers():
            self._rank(worker)
        self._pin(models)

    def _expire(self) -> None:
        """What was to come and has not been reported is not counted on any more."""
        fleet = self._state.fleet
        for worker in list(fleet.workers.values()):
            if worker.incoming and worker.prefetching_until_ms <= self._state.now_ms:
                fleet.expect(worker, {})

    # ---- copies ------------------------------------------------------------------------------

    def _models(self) -> Iterator[tuple[ModelSpec, Demand | None]]:
        """Endpoints that want copies whatever the traffic, and some that were asked for."""
        state = self._state
        for model_id, spec in state.specs.items():
            settings = state.endpoint(model_id)
            if settings.min_replicas or settings.buffer:
                yield spec, state.demands.of(model_id)
        demands = state.demands.models()
        for demand in _some(demands, state.supply.models_seen, self._policy.models_max):
            settings = state.endpoint(demand.model.id)
            if not (settings.min_replicas or settings.buffer):
                yield demand.model, demand
        state.supply.models_seen = _next(
            state.supply.models_seen, self._policy.models_max, len(demands)
        )

    def _supply(self, model: ModelSpec, demand: Demand | None) -> None:
        """Brings one copy more up if the model has had too few for long enough."""
        state = self._state
        if not model.sizes or model.id in state.quarantines:
            return
        settings = state.endpoint(model.id)
        prewarm = demand is not None and likely_soon(
            state, demand, settings, next(self._idle(model), None)
        )
        wanted = copies_wanted(
            settings, demand, self._policy, self._ready(model), state.now_ms, prewarm=prewarm
        )
        have = replicas(state, model)
        # Whether the last copy stays is a question of its pauses.
        self._surplus[model.id] = self._too_many(model.id, have > max(wanted, 1))
        if have >= wanted:
            state.supply.short_since.pop(model.id, None)
            return
        since_ms = state.supply.short_since.setdefault(model.id, state.now_ms)
        if state.now_ms - since_ms >= settings.scale_up_delay_ms:
            self._prefetch(model)

    def _too_many(self, model: ModelId, more: bool) -> bool:
        """Whether it has had more copies than wanted for longer than its delay."""
        since = self._state.supply.surplus_since
        if not more:
            since.pop(model, None)
            return False
        now_ms, settings = self._state.now_ms, self._state.endpoint(model)
        delay_ms = settings.scale_down_delay_ms or self._policy.scale_down_delay_ms
        return now_ms - since.setdefault(model, now_ms) >= delay_ms

    def _ready(self, model: ModelSpec) -> int:
        """Workers that may ever run it."""
        fleet = self._state.fleet
        pool, wanted = fleet.pool_of(model.id), model.weight_bytes + model.working_bytes
        return sum(
            count
            for kind, count in fleet.class_sizes()
            if kind.dedicated_to == pool and kind.vram_bytes >= wanted
        )

    def _idle(self, model: ModelSpec) -> Iterator[Worker]:
        """Workers with nothing to do that may run it and are not prefetching."""
        state = self._state
        pool = state.fleet.pool_of(model.id)
        for kind in list(state.fleet.classes()):
            if kind.dedicated_to != pool:
                continue
            for worker_id in islice(state.fleet.least_loaded(kind), IDLE_LOOKED_AT_MAX):
                worker = state.fleet.workers[worker_id]
                if worker.held or worker.reserved_for is not None:
                    continue
                if worker.prefetching_until_ms <= state.now_ms:
                    yield worker

    def _prefetch(self, model: ModelSpec) -> None:
        """To the idle worker that can have it soonest without anything leaving."""
        best: tuple[float, WorkerId] | None = None
        for worker in self._idle(model):
            missing = _missing(worker, model)
            used_bytes = worker.planned_bytes + worker.working_bytes(model.working_bytes)
            if not missing or used_bytes + sum(missing.values()) > worker.spec.vram_bytes:
                continue
            found = (reload_seconds(self._state, model, worker), worker.worker_id)
            best = min(best, found) if best is not None else found
        if best is not None and self._left:
            worker = self._state.fleet.workers[best[1]]
            missing = _missing(worker, model)
            self._send(worker, model, tuple(d for d in _in_order(model) if d in missing), Tier.VRAM)
            self._state.fleet.expect(worker, missing)

    def _send(
        self, worker: Worker, model: ModelSpec, digests: tuple[Digest, ...], tier: Tier
    ) -> None:
        state = self._state
        self._left -= 1
        worker.prefetching_until_ms = state.now_ms + self._policy.prefetch_ms_max
        elsewhere = whereabouts(state.fleet, worker, model)
        state.out.append(SendPrefetch(worker.worker_id, model, digests, tier, elsewhere))

    # ---- what goes first ---------------------------------------------------------------------

    def _workers(self) -> Iterator[Worker]:
        state = self._state
        workers = list(state.fleet.workers.values())
        seen, limit = state.supply.workers_seen, self._policy.workers_max
        # In the order of their ids, for the fleet's own order changes with every heartbeat.
        workers.sort(key=lambda worker: worker.worker_id)
        yield from _some(workers, seen, limit)
        state.supply.workers_seen = _next(seen, limit, len(workers))

    def _rank(self, worker: Worker) -> None:
        """Says what leaves first, and lets go of what nobody will miss if room is short."""
        state = self._state
        standings: dict[Digest, int] = {}
        for digest in worker.resident[Tier.VRAM]:
            found = [self._of(model, worker) for model in state.demands.wanting(digest)]
            found += [Standing.KEPT for spec in state.specs.values() if self._keeps(spec, digest)]
            if found:
                standings[digest] = max(found)
        state.fleet.rank(worker, standings)
        free_bytes = worker.spec.vram_bytes - worker.planned_bytes
        if worker.held or free_bytes >= self._policy.room_share * worker.spec.vram_bytes:
            return
        cold = tuple(
            digest
            for digest, standing_of in standings.items()
            if standing_of < 0
            and digest in worker.resident[Tier.PINNED]
            and digest not in worker.unloading
        )
        if cold and worker.connected:
            state.out.append(SendUnload(worker.worker_id, cold, Tier.VRAM))
            state.fleet.unload(worker, cold)

    def _keeps(self, spec: ModelSpec, digest: Digest) -> bool:
        if digest not in spec.sizes:
            return False
        settings = self._state.endpoint(spec.id)
        return 0 < settings.min_replicas >= replicas(self._state, spec)

    def _of(self, model: ModelId, worker: Worker) -> Standing:
        demand = self._state.demands.of(model)
        if demand is None:
            return Standing.USED
        settings = self._state.endpoint(model)
        surplus = self._surplus.get(model, False) and not worker.held
        return standing(self._state, demand, settings, worker, surplus=surplus)

    # ---- pinned memory -----------------------------------------------------------------------

    def _pin(self, models: Iterable[tuple[ModelSpec, Demand | None]]) -> None:
        """Brings models that are in use from disk to the pinned memory of idle workers."""
        now_ms = self._state.now_ms
        used = [(d.uses.at(now_ms), m.id, m) for m, d in models if d is not None and m.sizes]
        for uses, _, model in sorted(used, reverse=True):
            if not self._left or uses < 1.0:
                return
            for worker in self._idle(model):
                digests = _to_pin(worker, model)
                room = worker.spec.pinned_bytes - sum(worker.resident[Tier.PINNED].values())
                if digests and sum(model.sizes[digest] for digest in digests) <= room:
                    self._send(worker, model, digests, Tier.PINNED)
                    break


def _missing(worker: Worker, model: ModelSpec) -> dict[Digest, int]:
    return {d: size for d, size in model.sizes.items() if d not in worker.planned}


def _in_order(model: ModelSpec) -> Iterator[Digest]:
    """Distinct components in load order."""
    return iter(dict.fromkeys(part.digest for part in model.components))


def _to_pin(worker: Worker, model: ModelSpec) -> tuple[Digest, ...]:
    """What lies on the worker's disk and nowhere nearer."""
    vram, pinned, disk = (worker.resident[tier] for tier in (Tier.VRAM, Tier.PINNED, Tier.DISK))
    return tuple(
        digest
        for digest in _in_order(model)
        if digest in disk and digest not in pinned and digest not in vram
    )


def _some(items: list[_T], start: int, limit: int) -> list[_T]:
    """At most `limit` of them from `start` on."""
    return items[start : start + limit]


def _next(start: int, limit: int, length: int) -> int:
    """Where to go on; from the beginning once all were looked at."""
    return start + limit if start + limit < length else 0
