"""How many attempts of a tenant and of an endpoint may be open at once; the rest queue.

Counted is what was placed and has not ended. A limit refuses nobody: what may not start yet leaves
the fair order (a tenant as a whole, an endpoint's requests at a gate of their own), so that it
costs the others nothing to pass it over, and comes back in the fair order when there is room again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, TypeVar, assert_never

from quickthaw.scheduler.core.accounts import AccountId
from quickthaw.scheduler.core.budgets import Budgets, Start, payers
from quickthaw.scheduler.core.fair_queue import FairQueue
from quickthaw.scheduler.core.model import EndpointSettings, Job, ModelId, TenantId
from quickthaw.scheduler.core.waiting import Waiting

PAYERS_ASKED_MAX = 16
"""When an attempt ends, so many of those that wait for its payer's money are asked about again."""

_Key = TypeVar("_Key", TenantId, ModelId)


class Scope(Enum):
    """What else is held back for the same reason."""

    TENANT = "tenant"
    """Everything of the tenant, until `Limits.tenant_may_go_on`."""
    ENDPOINT = "endpoint"
    """Everything for the model, until `Limits.endpoint_may_go_on`."""
    PAYER = "payer"
    """Everything that the account would have to pay for, until `Limits.payers_may_go_on`."""
    REQUEST = "request"
    """Only this one; it is asked about again in each pass."""


class Held(NamedTuple):
    """Why a request may not start now. `reason` is one word of a fixed set."""

    scope: Scope
    reason: str
    detail: str
    gate: str = ""
    """Where those of a payer are parked."""


class Limits:
    """Open attempts, counted. `endpoints` is read whenever it matters, so that a change of an
    endpoint's settings counts at once (after `endpoint_may_go_on`)."""

    def __init__(
        self,
        queue: FairQueue,
        endpoints: Mapping[ModelId, EndpointSettings],
        tenant_max: int,
        tenants: Mapping[str, int],
        budgets: Budgets,
    ) -> None:
        self._queue = queue
        self._budgets = budgets
        self._endpoints = endpoints
        self._tenant_max = tenant_max
        self._tenants = tenants
        self._of_tenant: dict[TenantId, int] = {}
        self._of_model: dict[ModelId, int] = {}
        # Endpoints at whose gate somebody might be let in.
        self._stirred: dict[ModelId, None] = {}
        # Likewise of accounts, with how many may come in to be asked again.
        self._stirred_payers: dict[str, int] = {}

    # ---- questions ---------------------------------------------------------------------------

    def open_of(self, tenant: TenantId) -> int:
        return self._of_tenant.get(tenant, 0)

    def open_for(self, model: ModelId) -> int:
        return self._of_model.get(model, 0)

    def tenant_limit(self, tenant: TenantId) -> int:
        """0 for none."""
        return self._tenants.get(tenant, self._tenant_max)

    def endpoint_limit(self, model: ModelId) -> int:
        """0 for none."""
        known = self._endpoints.get(model)
        return known.concurrency_max if known is not None else 0

    def may_start(self, job: Job) -> Held | None:
        """None, or why one attempt more must wait. Asked for each request before a worker is looked
        for."""
        limit = self.tenant_limit(job.tenant)
        if limit and self.open_of(job.tenant) >= limit:
            return Held(Scope.TENANT, "tenant_limit", f"tenant limit {limit} reached")
        limit = self.endpoint_limit(job.model.id)
        if limit and self.open_for(job.model.id) >= limit:
            return Held(Scope.ENDPOINT, "endpoint_limit", f"endpoint limit {limit} reached")
        start, payer = self._budgets.may_start(job.request_id)
        if start is not Start.NOW:
            assert payer is not None
            return Held(Scope.PAYER, f"budget_{start.value}", f"account {payer}", _gate(payer))
        return None

    # ---- what happens ------------------------------------------------------------------------

    def started(self, job: Job) -> None:
        """An attempt of it is open."""
        self._of_tenant[job.tenant] = self.open_of(job.tenant) + 1
        self._of_model[job.model.id] = self.open_for(job.model.id) + 1

    def ended(self, job: Job) -> None:
        """Its attempt is not open any more."""
        _less(self._of_tenant, job.tenant)
        _less(self._of_model, job.model.id)
        self.tenant_may_go_on(job.tenant)
        self.endpoint_may_go_on(job.model.id)
        self.payers_may_go_on(payers(job), PAYERS_ASKED_MAX)

    def queued(self, waiting: Waiting) -> None:
        """A new one does not go before those that wait at its gate already, nor is it looked at
        while there is no room for it."""
        job = waiting.job
        if self._queue.parked_at(job.model.id) or self._is_full(job.model.id):
            self._queue.park(job.request_id, job.model.id)
            self._stirred[job.model.id] = None

    def _is_full(self, model: ModelId) -> bool:
        limit = self.endpoint_limit(model)
        return limit > 0 and self.open_for(model) >= limit

    def left(self, job: Job) -> None:
        """It ended in the queue: another may have been kept waiting for its sake."""
        if self._queue.parked_at(job.model.id):
            self._stirred[job.model.id] = None
        self.payers_may_go_on(payers(job), PAYERS_ASKED_MAX)

    def hold(self, job: Job, held: Held) -> None:
        """Takes what may not start out of the fair order."""
        match held.scope:
            case Scope.TENANT:
                self._queue.hold(job.tenant)
            case Scope.ENDPOINT:
                self._queue.park(job.request_id, job.model.id)
            case Scope.PAYER:
                self._queue.park(job.request_id, held.gate)
            case Scope.REQUEST:
                pass
            case _:
                assert_never(held.scope)

    def tenant_may_go_on(self, tenant: TenantId) -> None:
        """Something changed for the better for a tenant: it is asked about again."""
        for gate in self._queue.release(tenant):
            self._stirred[ModelId(gate)] = None

    def endpoint_may_go_on(self, model: ModelId) -> None:
        """Something changed for the better for an endpoint."""
        if self._queue.parked_at(model):
            self._stirred[model] = None

    def payers_may_go_on(self, accounts: Iterable[AccountId], asked_max: int = 0) -> None:
        """There may be money again: up to so many requests are asked about again; 0 for all."""
        for account_id in accounts:
            gate = _gate(account_id)
            if self._queue.parked_at(gate):
                self._stirred_payers[gate] = asked_max or len(self._queue)

    def open_gates(self) -> None:
        """Lets as many back into the fair order as there is room for. Before each pass."""
        while self._stirred_payers:
            self._queue.open_gate(*self._stirred_payers.popitem())
        while self._stirred:
            model, _ = self._stirred.popitem()
            limit = self.endpoint_limit(model)
            room = limit - self.open_for(model) if limit else len(self._queue)
            if room > 0:
                self._queue.open_gate(model, room)


@lru_cache(4_096)
def _gate(account_id: AccountId) -> str:
    # No model's id begins so.
    return f"account:{account_id}"


def _less(counts: dict[_Key, int], key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
