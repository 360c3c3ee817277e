"""The order of waiting requests: fair between tenants, by priority and age inside one.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) over money: GPU time at the rate of the
GPU it is spent on, in nano-dollars, so that a second of a dear GPU counts for more. A tenant's next
request has the start tag `S = max(V, F)`; the least tag goes first; being placed it moves the
tenant's finish tag to `F = S + cost / weight`. The cost is an estimate, and `charge` corrects F by
what the meter says. V, the virtual time, is the least tag of those waiting when something is
placed, so that a request placed out of turn does not let newcomers wait for it.

Between two tenants that always have work that may start, weighted service differs by at most one
request of each: `c_i / w_i + c_j / w_j`, where costs are what was settled; to which comes what the
planner allows a tenant to be ahead for the sake of residency (`CoreSettings.collation_lead_ms`).
That is with one request placed at a time; with k of a tenant in flight whose costs were guessed
wrong, the errors of all k come to it until they are settled.

Inside a tenant, one step of priority is worth a fixed head start in submission time. Within that
span priorities are strict, and beyond it nobody starves.

A limit takes requests out of the order, so that they cost the others nothing: a tenant that is
held back as a whole (`hold`), or requests that wait at a gate (`park`), such as an endpoint's. Who
comes back is not owed what passed meanwhile: its tag is V at least.

Adding, taking and removing cost O(log n) comparisons in the tenants with work and in the requests
of one tenant, the next request of a walk as much, whatever waits behind it.
"""

from __future__ import annotations

import heapq
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping

from quickthaw.scheduler.core.model import Digest, Job, RequestId, TenantId
from quickthaw.scheduler.core.sorted_tags import SortedTags, Tag
from quickthaw.scheduler.core.waiting import Rank, Waiting

CHARGE_LEAST_NANODOLLARS = 1.0
"""Of one request, so that the order moves on whatever things cost."""


_BEFORE_ALL = Rank(-sys.maxsize, 0, RequestId(""))


class _Tenant:
    __slots__ = ("finish", "gates", "held", "name", "ranks", "tag", "waiting", "weight")

    def __init__(self, name: TenantId, weight: float, finish: float) -> None:
        self.name = name
        self.weight = weight
        self.finish = finish
        self.ranks: list[Rank] = []
        """Of those in the order."""
        self.gates: dict[str, list[Rank]] = {}
        """Of those that are parked, by gate."""
        self.waiting = 0
        """All of them."""
        self.held = False
        self.tag: Tag | None = None
        """Its entry in the order, if it has one."""


class FairQueue:
    def __init__(self, weights: Mapping[str, float], priority_head_start_ms: int) -> None:
        self._weights = weights
        self._head_start_ms = priority_head_start_ms
        self._virtual, self._sequence = 0.0, 0
        self.run_ms = 0.0
        """Of all that wait."""
        # Those with work, and those whose past still counts; `_forget` bounds the others.
        self._tenants: dict[TenantId, _Tenant] = {}
        self._with_work, self._forget_beyond = 0, 64
        self._order = SortedTags()
        self._waiting: dict[RequestId, Waiting] = {}
        # Those that go before all others: few, see `Job.ahead`.
        self._ahead: dict[RequestId, Waiting] = {}
        # Who has parked requests at a gate.
        self._parked: dict[str, dict[TenantId, _Tenant]] = {}
        # What waits for a model, by the model's largest component: what tells it from others.
        self._wanting: dict[Digest, dict[RequestId, Waiting]] = {}

    # ---- questions ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._waiting

    def get(self, request_id: RequestId) -> Waiting:
        return self._waiting[request_id]

    def length_of(self, tenant: TenantId) -> int:
        known = self._tenants.get(tenant)
        return known.waiting if known else 0

    def wanting(self, digest: Digest) -> Iterable[Waiting]:
        """Those in the order whose model's largest component this is, in order of arrival here. Not
        to be kept while the queue changes."""
        return self._wanting.get(digest, {}).values()

    def lead(self, waiting: Waiting) -> float:
        """How far, in nano-dollars by its weight, a request's tenant has had more than the tenant
        that is next by right; 0 for that one."""
        return max(0.0, self._tenants[waiting.job.tenant].finish - self._virtual_now())

    def is_held(self, tenant: TenantId) -> bool:
        known = self._tenants.get(tenant)
        return known is not None and known.held

    def ahead(self) -> list[Waiting]:
        """Those that go before the order, oldest first; their tenants are charged like all others.
        What waits at a gate, or for its tenant, is not among them."""
        return [
            waiting
            for waiting in self._ahead.values()
            if not waiting.gate and not self._tenants[waiting.job.tenant].held
        ]

    def parked_at(self, gate: str) -> bool:
        return gate in self._parked

    # ---- coming and going --------------------------------------------------------------------

    def rank(self, job: Job) -> Rank:
        """A new request's place for life: queued again, it has it again."""
        self._sequence += 1
        effective_ms = job.submitted_ms - job.priority * self._head_start_ms
        return Rank(effective_ms, self._sequence, job.request_id)

    def add(self, job: Job, rank: Rank, cost_nanodollars: float, run_ms: float = 0.0) -> Waiting:
        cost = max(cost_nanodollars, CHARGE_LEAST_NANODOLLARS)
        waiting = self._waiting[job.request_id] = Waiting(job, rank, cost, run_ms)
        self.run_ms += run_ms
        if job.ahead:
            self._ahead[job.request_id] = waiting
        tenant = self._tenant(job.tenant)
        self._with_work += not tenant.waiting
        tenant.waiting += 1
        self._enter(tenant, waiting)
        return waiting

    def remove(self, request_id: RequestId) -> None:
        """It ended while it waited; its tenant is charged nothing."""
        waiting = self._waiting.pop(request_id)
        self._ahead.pop(request_id, None)
        self.run_ms = self.run_ms - waiting.run_ms if self._waiting else 0.0
        tenant = self._tenants[waiting.job.tenant]
        tenant.waiting -= 1
        self._with_work -= not tenant.waiting
        if waiting.gate:
            self._unpark(tenant, waiting)
        else:
            self._leave(tenant, waiting)

    def take(self, request_id: RequestId, cost_nanodollars: float | None = None) -> float:
        """It was placed: its tenant is charged `cost_nanodollars` or, if nobody knows better, what
        was expected when it was added. Returns the charge, for settling it by `charge`."""
        self._virtual = self._virtual_now()
        waiting = self._waiting[request_id]
        cost = waiting.cost_nanodollars if cost_nanodollars is None else cost_nanodollars
        cost = max(cost, CHARGE_LEAST_NANODOLLARS)
        tenant = self._tenants[waiting.job.tenant]
        tenant.finish = max(self._virtual, tenant.finish + cost / tenant.weight)
        self.remove(request_id)
        self._place_tag(tenant)
        self._forget()
        return cost

    def charge(self, tenant_id: TenantId, cost_nanodollars: float) -> None:
        """May be negative: what was charged too much. V never goes back for it."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            if cost_nanodollars <= 0.0:
                return
            tenant = self._tenant(tenant_id)
        finish = tenant.finish + cost_nanodollars / tenant.weight
        tenant.finish = max(self._virtual, finish)
        self._place_tag(tenant)

    # ---- limits ------------------------------------------------------------------------------

    def hold(self, tenant_id: TenantId) -> None:
        """Nothing of this tenant may start: it leaves the order until `release`."""
        tenant = self._tenants[tenant_id]
        tenant.held = True
        self._place_tag(tenant)

    def release(self, tenant_id: TenantId) -> tuple[str, ...]:
        """Back in the order. Returns the gates at which requests of this tenant are parked."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None or not tenant.held:
            return ()
        tenant.held = False
        tenant.finish = max(tenant.finish, self._virtual)
        self._place_tag(tenant)
        return tuple(tenant.gates)

    def park(self, request_id: RequestId, gate: str) -> None:
        """A request in the order waits at a gate instead."""
        waiting = self._waiting[request_id]
        tenant = self._tenants[waiting.job.tenant]
        self._leave(tenant, waiting)
        waiting.gate = gate
        insort(tenant.gates.setdefault(gate, []), waiting.rank)
        self._parked.setdefault(gate, {})[tenant.name] = tenant

    def open_gate(self, gate: str, limit: int) -> int:
        """Lets up to `limit` of the requests at a gate back into the order, in the fair order,
        those of tenants that are held left out; how many. Costs O(tenants at the gate)."""
        here = (tenant for tenant in self._parked.get(gate, {}).values() if not tenant.held)
        heads = [(max(tenant.finish, self._virtual), tenant.name) for tenant in here]
        heapq.heapify(heads)
        opened = 0
        while heads and opened < limit:
            finish, name = heads[0]
            tenant = self._tenants[name]
            waiting = self._waiting[tenant.gates[gate][0].request_id]
            self._unpark(tenant, waiting)
            self._enter(tenant, waiting)
            opened += 1
            if gate in tenant.gates:
                after = finish + waiting.cost_nanodollars / tenant.weight
                heapq.heapreplace(heads, (after, name))
            else:
                heapq.heappop(heads)
        return opened

    # ---- the order ---------------------------------------------------------------------------

    def in_order(self, limit: int) -> Iterator[Waiting]:
        """At most `limit` of those in the order, as they would be placed if each found a worker.
        Any may be taken, removed or parked meanwhile, and none added: what has gone is not yielded.
        """
        if len(self._waiting) == 1:  # as it mostly is while workers have room
            [only] = self._waiting.values()
            if limit and not only.gate and not self._tenants[only.job.tenant].held:
                yield only
            return
        # Each tenant that was reached, at the tag of its next request; its last one that was seen.
        heads: list[Tag] = []
        seen: dict[TenantId, Rank] = {}
        cursor = self._order.first()
        while limit and (heads or cursor is not None):
            if cursor is not None and (not heads or cursor <= heads[0]):
                # A tenant that was charged during the walk is met again, and in `heads` already.
                if cursor.tenant not in seen:
                    heapq.heappush(heads, cursor)
                    seen[cursor.tenant] = _BEFORE_ALL
                cursor = self._order.after(cursor)
                continue
            finish, name = heads[0]
            tenant = self._tenants.get(name)
            waiting = None if tenant is None else self._next_of(tenant, seen[name])
            if tenant is None or waiting is None:
                heapq.heappop(heads)
                continue
            seen[name] = waiting.rank
            after = finish + waiting.cost_nanodollars / tenant.weight
            heapq.heapreplace(heads, Tag(after, name))
            limit -= 1
            yield waiting

    def _next_of(self, tenant: _Tenant, seen: Rank) -> Waiting | None:
        index = bisect_right(tenant.ranks, seen)
        if tenant.held or index == len(tenant.ranks):
            return None
        return self._waiting[tenant.ranks[index].request_id]

    def position(self, request_id: RequestId, exact_max: int) -> int:
        """How many go before it: exact up to `exact_max`, beyond that an estimate."""
        if request_id in self._ahead or len(self._waiting) == 1:
            return 0
        waiting = self._waiting[request_id]
        tenant = self._tenants[waiting.job.tenant]
        if waiting.gate:
            own_ahead = len(tenant.ranks) + bisect_left(tenant.gates[waiting.gate], waiting.rank)
        else:
            own_ahead = bisect_left(tenant.ranks, waiting.rank)
        if own_ahead <= exact_max and not waiting.gate and not tenant.held:
            for ahead, other in enumerate(self.in_order(exact_max + 1)):
                if other is waiting:
                    return ahead
        # Each other tenant gets about as many turns as this one until then, if it has them.
        turns = (own_ahead + 1) * (self._with_work - 1)
        others = min(turns, len(self._waiting) - tenant.waiting)
        kept_back = waiting.gate or tenant.held
        return own_ahead + others if kept_back else max(exact_max + 1, own_ahead + others)

    # ---- keeping it --------------------------------------------------------------------------

    def _virtual_now(self) -> float:
        least = self._order.first()
        return self._virtual if least is None else max(self._virtual, least.finish)

    def _tenant(self, name: TenantId) -> _Tenant:
        if (tenant := self._tenants.get(name)) is None:
            weight = self._weights.get(name, 1.0)
            tenant = self._tenants[name] = _Tenant(name, weight, self._virtual)
        return tenant

    def _enter(self, tenant: _Tenant, waiting: Waiting) -> None:
        if not tenant.ranks:
            tenant.finish = max(tenant.finish, self._virtual)
        insort(tenant.ranks, waiting.rank)
        self._place_tag(tenant)
        if (largest := next(iter(waiting.job.model.sizes), None)) is not None:
            self._wanting.setdefault(largest, {})[waiting.job.request_id] = waiting

    def _leave(self, tenant: _Tenant, waiting: Waiting) -> None:
        del tenant.ranks[bisect_left(tenant.ranks, waiting.rank)]
        self._place_tag(tenant)
        if (largest := next(iter(waiting.job.model.sizes), None)) is not None:
            wanting = self._wanting[largest]
            del wanting[waiting.job.request_id]
            if not wanting:
                del self._wanting[largest]

    def _unpark(self, tenant: _Tenant, waiting: Waiting) -> None:
        gate, waiting.gate = waiting.gate, ""
        ranks = tenant.gates[gate]
        del ranks[bisect_left(ranks, waiting.rank)]
        if not ranks:
            del tenant.gates[gate]
            del self._parked[gate][tenant.name]
            if not self._parked[gate]:
                del self._parked[gate]

    def _place_tag(self, tenant: _Tenant) -> None:
        """A tenant is in the order exactly while something of it may be placed."""
        wanted = Tag(tenant.finish, tenant.name) if tenant.ranks and not tenant.held else None
        if wanted != tenant.tag:
            if tenant.tag is not None:
                self._order.remove(tenant.tag)
            if wanted is not None:
                self._order.add(wanted)
            tenant.tag = wanted

    def _forget(self) -> None:
        """Drops tenants without work whose past no longer counts, once they have doubled."""
        if len(self._tenants) > self._forget_beyond:
            for name in [
                name
                for name, tenant in self._tenants.items()
                if not tenant.waiting and not tenant.held and tenant.finish <= self._virtual
            ]:
                del self._tenants[name]
            self._forget_beyond = 2 * len(self._tenants) + 64
