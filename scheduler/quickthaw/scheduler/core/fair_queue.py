"""The order of waiting requests: fair between tenants, by priority and age inside one.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) over GPU-milliseconds. A tenant's next
request has the start tag `S = max(V, F)`; the least tag goes first; being placed it moves the
tenant's finish tag to `F = S + cost / weight`. The cost is an estimate, and `settle` corrects F by
what the meter says. V, the virtual time, is the least tag of those waiting when something is
placed, so that a request placed out of turn (`bypass`) does not let newcomers wait for it. Between
two tenants that always have work, weighted service differs by at most one request of each:
`c_i / w_i + c_j / w_j`, where costs are what was settled; to which comes what the planner allows
a tenant to be ahead for the sake of residency (`CoreSettings.collation_lead_ms`).

Inside a tenant, one step of priority is worth a fixed head start in submission time. Within that
span priorities are strict, and beyond it nobody starves.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from quickthaw.scheduler.core.model import Digest, Job, RequestId, TenantId, WorkerId


class Rank(NamedTuple):
    """The place inside a tenant: a smaller rank goes first."""

    effective_ms: int
    sequence: int
    request_id: RequestId


class Tried(NamedTuple):
    """Why a request still waits: no worker could take it in this version of the fleet, or it
    rather waits for one that has its model."""

    fleet_version: int
    waits_for: WorkerId | None
    hopeless: bool
    """No other request for the same model would have fared better."""


class Waiting:
    """One request in the queue. `cost_ms` is the estimate that its tenant will be charged."""

    __slots__ = ("bypassed", "cost_ms", "impatient_at_ms", "job", "rank", "tried")

    def __init__(self, job: Job, rank: Rank, cost_ms: float) -> None:
        self.job = job
        self.rank = rank
        self.cost_ms = cost_ms
        self.bypassed = 0
        """Later requests that were placed while no worker was found for this one."""
        self.impatient_at_ms = 0
        """Until then it may wait for a busy worker that has its model; 0 before the first wait."""
        self.tried: Tried | None = None


class _Tenant:
    __slots__ = ("finish", "ranks", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.finish = 0.0
        self.ranks: list[Rank] = []


class FairQueue:
    def __init__(self, weights: Mapping[str, float], priority_head_start_ms: int) -> None:
        self._weights = weights
        self._head_start_ms = priority_head_start_ms
        self._virtual = 0.0
        self._sequence = 0
        self.cost_ms = 0.0
        """Of all that wait."""
        self._tenants: dict[TenantId, _Tenant] = {}
        self._waiting: dict[RequestId, Waiting] = {}
        # Tenants with work; the length of `_tenants` is bounded by `_forget`.
        self._backlogged: dict[TenantId, _Tenant] = {}
        # What waits for a model, by the model's largest component: what tells it from others.
        self._wanting: dict[Digest, dict[RequestId, Waiting]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._waiting

    def get(self, request_id: RequestId) -> Waiting:
        return self._waiting[request_id]

    def length_of(self, tenant: TenantId) -> int:
        known = self._backlogged.get(tenant)
        return len(known.ranks) if known else 0

    def wanting(self, digest: Digest) -> Iterable[Waiting]:
        """Those whose model's largest component this is, in order of arrival here. Not to be kept
        while the queue changes."""
        return self._wanting.get(digest, {}).values()

    def lead(self, waiting: Waiting) -> float:
        """How far, in GPU-milliseconds by its weight, a request's tenant has had more than the
        tenant that is next by right; 0 for that one."""
        return max(0.0, self._backlogged[waiting.job.tenant].finish - self._virtual_now())

    def _virtual_now(self) -> float:
        return max(self._virtual, min(tenant.finish for tenant in self._backlogged.values()))

    def rank(self, job: Job) -> Rank:
        """A new request's place for life: queued again, it has it again."""
        self._sequence += 1
        effective_ms = job.submitted_ms - job.priority * self._head_start_ms
        return Rank(effective_ms, self._sequence, job.request_id)

    def add(self, job: Job, rank: Rank, cost_ms: float) -> Waiting:
        waiting = self._waiting[job.request_id] = Waiting(job, rank, max(cost_ms, 1.0))
        self.cost_ms += waiting.cost_ms
        tenant = self._tenants.get(job.tenant)
        if tenant is None:
            tenant = self._tenants[job.tenant] = _Tenant(self._weights.get(job.tenant, 1.0))
        if not tenant.ranks:
            tenant.finish = max(tenant.finish, self._virtual)
            self._backlogged[job.tenant] = tenant
        insort(tenant.ranks, rank)
        if (largest := next(iter(job.model.sizes), None)) is not None:
            self._wanting.setdefault(largest, {})[job.request_id] = waiting
        return waiting

    def remove(self, request_id: RequestId) -> None:
        """It ended while it waited; its tenant is charged nothing."""
        waiting = self._waiting.pop(request_id)
        self.cost_ms = self.cost_ms - waiting.cost_ms if self._waiting else 0.0
        tenant = self._backlogged[waiting.job.tenant]
        del tenant.ranks[bisect_left(tenant.ranks, waiting.rank)]
        if not tenant.ranks:
            del self._backlogged[waiting.job.tenant]
        if (largest := next(iter(waiting.job.model.sizes), None)) is not None:
            wanting = self._wanting[largest]
            del wanting[request_id]
            if not wanting:
                del self._wanting[largest]

    def take(self, request_id: RequestId) -> float:
        """It was placed: its tenant is charged. Returns the charge, for `settle`."""
        self._virtual = self._virtual_now()
        waiting = self._waiting[request_id]
        self.charge(waiting.job.tenant, waiting.cost_ms)
        self.remove(request_id)
        self._forget()
        return waiting.cost_ms

    def charge(self, tenant_id: TenantId, cost_ms: float) -> None:
        """`cost_ms` may be negative: what was charged too much. V never goes back for it."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            if cost_ms <= 0.0:
                return
            tenant = self._tenants[tenant_id] = _Tenant(self._weights.get(tenant_id, 1.0))
            tenant.finish = self._virtual
        tenant.finish = max(self._virtual, tenant.finish + cost_ms / tenant.weight)

    def in_order(self, limit: int) -> Iterator[Waiting]:
        """At most `limit` that wait, in the order in which they would be placed if each found a
        worker. Any may be taken or removed meanwhile, and none added: what has gone is not yielded.
        """
        heads = [(tenant.finish, name, 0) for name, tenant in self._backlogged.items()]
        heapq.heapify(heads)
        ranks_of: dict[TenantId, list[Rank]] = {}
        while heads and limit:
            tag, name, index = heads[0]
            if (tenant := self._tenants.get(name)) is None:
                heapq.heappop(heads)
                continue
            if (ranks := ranks_of.get(name)) is None:
                ranks = ranks_of[name] = tenant.ranks[:limit]
            while index < len(ranks) and ranks[index].request_id not in self._waiting:
                index += 1
            if index == len(ranks):
                heapq.heappop(heads)
                continue
            waiting = self._waiting[ranks[index].request_id]
            heapq.heapreplace(heads, (tag + waiting.cost_ms / tenant.weight, name, index + 1))
            limit -= 1
            yield waiting

    def position(self, request_id: RequestId, exact_max: int) -> int:
        """How many go before it: exact up to `exact_max`, beyond that an estimate."""
        for ahead, waiting in enumerate(self.in_order(exact_max + 1)):
            if waiting.job.request_id == request_id:
                return ahead
        waiting = self._waiting[request_id]
        tenant = self._backlogged[waiting.job.tenant]
        own_ahead = bisect_left(tenant.ranks, waiting.rank)
        # Each other tenant gets about as many turns as this one until then, if it has them.
        others = (t for t in self._backlogged.values() if t is not tenant)
        turns = sum(min(len(other.ranks), own_ahead + 1) for other in others)
        return max(exact_max + 1, own_ahead + turns)

    def _forget(self) -> None:
        """Drops tenants without work whose past no longer counts, once there are many."""
        if len(self._tenants) > 2 * len(self._backlogged) + 64:
            for name in [
                name
                for name, tenant in self._tenants.items()
                if not tenant.ranks and tenant.finish <= self._virtual
            ]:
                del self._tenants[name]
