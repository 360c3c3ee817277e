"""The outbox of webhooks: who is to be told of which request's end, and who is telling it now.

It is in the scheduler's store and not with a gateway. What makes a delivery due is the end of a
request, which is a transaction of this store; a gateway that kept its own list would have to hear
of every end, also of those during its own restart, and two gateways would need a third place to
agree who delivers. So the row is written with the request and becomes due after its end, and
gateways, which alone know how an output looks to the outside, lease what is due.

The row is marked as due in a write of its own, after the commit of the end: that keeps the end's
transaction as it is for the many requests without a webhook. Nothing is lost by it, because a start
marks every waiting row whose request is not open any more.

A claim counts as an attempt before it is carried out, so that a delivery that kills gateways is
given up like any other. One process writes the store, so one lock is enough for "read, then lease".
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.live import LiveRequest
from quickthaw.scheduler.store.store import Store
from quickthaw.scheduler.store.webhooks import (
    claim_row,
    due_row,
    due_webhooks,
    settle_row,
    waiting_webhooks,
    webhook,
    webhook_page,
)
from quickthaw.scheduler.unbroken import unbroken
from quickthaw.scheduler.views import RequestView
from quickthaw.scheduler.webhook_rules import (
    ATTEMPTS_MAX,
    Attempt,
    Webhook,
    WebhookState,
    abandoned,
    claimed,
    revived,
    settled,
)
from quickthaw.wire import errors

ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""Requests in one answer to a claim; a single larger one goes alone."""
RECOVERED_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Claimed:
    webhook: Webhook
    view: RequestView


class Webhooks:
    """Belongs to the event loop."""

    def __init__(
        self,
        *,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        tenant_in_flight_max: int,
        poll_seconds: float,
        chance: Random | None = None,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._tenant_in_flight_max = tenant_in_flight_max
        self._poll_seconds = poll_seconds
        self._chance = chance or Random()
        self._changing = asyncio.Lock()
        # Replaced when it is set, so that who began to wait earlier has heard.
        self._news = asyncio.Event()
        self._leases: dict[str, tuple[str, int]] = {}
        """Tenant and end of each lease; a restart forgets them, the rows do not."""

    async def recover(self) -> None:
        """To be called when every request that is open has been handed to the dispatcher."""
        waiting = await self._store.reader.run(waiting_webhooks)
        ended: list[str] = []
        for request_id in waiting:
            live = self._dispatcher.live.get(request_id)
            if live is None:
                ended.append(request_id)
            else:
                self.expect(live)
        now_ms = self._clock.now_ms()
        for start in range(0, len(ended), RECOVERED_AT_ONCE):
            part = ended[start : start + RECOVERED_AT_ONCE]
            await self._store.journal.keep([due_row(each, now_ms) for each in part])

    def expect(self, request: LiveRequest) -> None:
        """The request has a webhook, which becomes due when it ends."""
        request_id = request.view.request_id

        def ended(waiter: asyncio.Future[RequestView]) -> None:
            if not waiter.cancelled() and waiter.exception() is None:
                self.make_due(request_id)

        self._dispatcher.wait_for_end(request).add_done_callback(ended)

    def make_due(self, request_id: str) -> None:
        write = self._store.journal.keep([due_row(request_id, self._clock.now_ms())])
        write.add_done_callback(lambda _: self._tell())

    async def claim(self, *, count_max: int, wait_ms: int, lease_ms: int) -> list[Claimed]:
        """At most `count_max`, leased; empty if nothing became due in time. Raises StoreUnavailable
        and the like."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + wait_ms / 1000
        while True:
            news = self._news
            found = await self._claim_now(count_max, lease_ms)
            left_seconds = give_up - loop.time()
            if found or left_seconds <= 0:
                return found
            try:
                # Retries become due by the clock, of which nobody tells.
                async with asyncio.timeout(min(left_seconds, self._poll_seconds)):
                    await news.wait()
            except TimeoutError:
                pass

    @unbroken
    async def _claim_now(self, count_max: int, lease_ms: int) -> list[Claimed]:
        async with self._changing:
            return await self._lease_due(count_max, lease_ms)

    async def _lease_due(self, count_max: int, lease_ms: int) -> list[Claimed]:
        now_ms = self._clock.now_ms()
        self._leases = {
            request_id: lease for request_id, lease in self._leases.items() if lease[1] > now_ms
        }
        in_flight = Counter(tenant for tenant, _ in self._leases.values())
        full = {tenant for tenant, n in in_flight.items() if n >= self._tenant_in_flight_max}
        due = await self._store.reader.run(
            lambda c: due_webhooks(c, now_ms, without_tenants=full, size_max=count_max)
        )
        found: list[Claimed] = []
        rows = []
        size_bytes = 0
        for each, view in due:
            if each.attempts >= ATTEMPTS_MAX:
                rows.append(settle_row(abandoned(each, now_ms)))
                continue
            size_bytes += len(view.input_json) + len(view.output_json) + len(view.end_proto)
            if found and size_bytes > ANSWER_BYTES_MAX:
                break
            if in_flight[each.tenant] >= self._tenant_in_flight_max:
                continue
            in_flight[each.tenant] += 1
            leased = claimed(each, secrets.token_hex(16), now_ms + lease_ms)
            rows.append(claim_row(leased))
            found.append(Claimed(leased, view))
        if rows:
            await self._store.journal.offer(rows)
        for taken in found:
            hook = taken.webhook
            self._leases[hook.request_id] = (hook.tenant, hook.lease_until_ms)
        return found

    @unbroken
    async def report(
        self, request_id: str, lease_id: str, attempt: Attempt, *, delivered: bool, permanent: bool
    ) -> tuple[Webhook, bool]:
        """Where it stands now, and whether the report counted. Raises WebhookNotFound."""
        async with self._changing:
            known = await self._find(request_id)
            if not lease_id or known.lease_id != lease_id:
                return known, False
            after = settled(
                known, attempt, delivered=delivered, permanent=permanent, chance=self._chance
            )
            await self._store.journal.offer([settle_row(after)])
            self._leases.pop(request_id, None)
        self._tell()  # A tenant that had as many in flight as it may has room again.
        return after, True

    @unbroken
    async def redeliver(self, tenant: str, request_id: str) -> Webhook:
        """Raises WebhookNotFound, FailedPrecondition."""
        now_ms = self._clock.now_ms()
        async with self._changing:
            known = await self.find(tenant, request_id)
            if known.state is WebhookState.WAITING:
                raise errors.FailedPrecondition(
                    f"request {request_id} has not ended; its webhook is told when it has"
                )
            if known.lease_until_ms > now_ms:
                raise errors.FailedPrecondition(
                    f"the webhook of {request_id} is being delivered at this moment; look again "
                    "in a minute"
                )
            after = revived(known, now_ms)
            await self._store.journal.offer([settle_row(after)])
        self._tell()
        return after

    async def find(self, tenant: str, request_id: str) -> Webhook:
        """Raises WebhookNotFound, also for another tenant's."""
        known = await self._find(request_id)
        if known.tenant != tenant:
            raise _not_found(request_id)
        return known

    async def page(
        self, tenant: str, *, before_id: str, states: Sequence[WebhookState], size: int
    ) -> tuple[list[Webhook], str]:
        """One page, newest request first, and the token of the next."""
        found = await self._store.reader.run(
            lambda c: webhook_page(c, tenant, before_id=before_id, states=states, size=size)
        )
        return found, found[-1].request_id if len(found) == size else ""

    async def _find(self, request_id: str) -> Webhook:
        known = await self._store.reader.run(lambda c: webhook(c, request_id))
        if known is None:
            raise _not_found(request_id)
        return known

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _not_found(request_id: str) -> errors.WebhookNotFound:
    return errors.WebhookNotFound(
        f"there is no webhook of a request {request_id[:64]!r}; `quickthaw webhooks` lists yours"
    )
