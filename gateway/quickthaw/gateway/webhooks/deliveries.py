"""Leases webhooks that are due, delivers them, and reports how it went.

The scheduler's store is the outbox (see its `webhooks.py`); a gateway holds nothing that another
one could not take over when a lease runs out. What a delivery looks like is its dialect's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeAlias

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.json_text import JsonObject, render
from quickthaw.gateway.outbound import Outbound, OutboundError, OutboundLimits, OutboundRefused
from quickthaw.gateway.webhooks.signing import Sealed, fal_headers, standard_headers
from quickthaw.v1 import types_pb2, webhooks_pb2
from quickthaw.wire.errors import QuickthawError

logger = logging.getLogger(__name__)

Dialect: TypeAlias = "webhooks_pb2.WebhookDialect.ValueType"
Body = Callable[[Gateway, types_pb2.Request], Awaitable[JsonObject]]
"""What is posted for a request that has ended."""

CLAIMS_MAX = 16
WAIT_MS = 20_000
LEASE_SLACK_SECONDS = 45.0
"""Beyond an attempt's own time: reading the files of an output, and reporting."""
ANSWER_BYTES_MAX = 4 * 1024
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.5, 10.0

_NAMES: Mapping[Dialect, str] = {
    webhooks_pb2.WEBHOOK_DIALECT_FAL: "fal",
    webhooks_pb2.WEBHOOK_DIALECT_REPLICATE: "replicate",
}


class Deliverer:
    """`run` it for as long as the gateway serves. `unix_seconds` dates the signatures."""

    def __init__(
        self,
        gateway: Gateway,
        outbound: Outbound,
        bodies: Mapping[Dialect, Body],
        unix_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._gateway = gateway
        self._outbound = outbound
        self._bodies = bodies
        self._unix_seconds = unix_seconds
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Never returns; cancelled, it drops what is under way, which another lease will find."""
        pause_seconds = PAUSE_SECONDS
        try:
            while True:
                room = self._gateway.limits.webhook_deliveries_max - len(self._under_way)
                if room <= 0:
                    await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                    continue
                try:
                    await self._take(min(room, CLAIMS_MAX))
                    pause_seconds = PAUSE_SECONDS
                    continue
                except QuickthawError as error:
                    logger.info("no webhooks can be claimed now: %s", error.message)
                except Exception:
                    # A bug of ours, and no reason to deliver nothing more.
                    logger.exception("claiming webhooks")
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _take(self, count_max: int) -> None:
        lease_seconds = self._gateway.limits.webhook_seconds + LEASE_SLACK_SECONDS
        claimed = await self._gateway.platform.claim_webhooks(
            self._gateway.own_credential,
            webhooks_pb2.ClaimWebhooksRequest(
                count_max=count_max, wait_ms=WAIT_MS, lease_ms=int(lease_seconds * 1000)
            ),
        )
        for delivery in claimed:
            task = asyncio.create_task(self._deliver(delivery))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, delivery: webhooks_pb2.WebhookDelivery) -> None:
        request_id = delivery.webhook.request_id
        metrics = self._gateway.metrics
        with metrics.open_webhooks.track_inprogress():
            report = await self._attempt(delivery)
        outcome = "delivered" if report.delivered else "failed"
        dialect = _NAMES.get(delivery.webhook.target.dialect, "unknown")
        metrics.webhooks.labels(dialect, outcome).inc()
        metrics.webhook_seconds.observe(report.attempt.spent_ms / 1000)
        logger.info(
            "webhook of %s: attempt %d %s %s",
            request_id,
            delivery.webhook.attempts,
            outcome,
            report.attempt.error,
        )
        try:
            await self._gateway.platform.report_webhook(self._gateway.own_credential, report)
        except QuickthawError as error:
            logger.warning("webhook of %s was not reported: %s", request_id, error.message)

    async def _attempt(
        self, delivery: webhooks_pb2.WebhookDelivery
    ) -> webhooks_pb2.ReportWebhookRequest:
        report = webhooks_pb2.ReportWebhookRequest(
            request_id=delivery.webhook.request_id, lease_id=delivery.lease_id
        )
        limits = OutboundLimits(
            ANSWER_BYTES_MAX, self._gateway.limits.webhook_seconds, keep_start=True
        )
        started = time.perf_counter()
        try:
            body = render(await self._body(delivery)).encode()
            headers = await self._headers(delivery, body)
            started = time.perf_counter()
            answer = await self._outbound.request(
                "POST", delivery.webhook.target.url, limits, headers=headers, body=body
            )
            report.attempt.status = answer.status
            report.delivered = 200 <= answer.status < 300
            if not report.delivered:
                report.attempt.error = f"the receiver answered {answer.status}"
        except OutboundError as error:
            report.attempt.error = str(error)
            # Asking the same thing again would be refused again.
            report.permanent = isinstance(error, OutboundRefused)
        except QuickthawError as error:
            report.attempt.error = error.message
        except Exception:
            logger.exception("webhook of %s", report.request_id)
            report.attempt.error = "the gateway failed; its log says how"
        report.attempt.spent_ms = int((time.perf_counter() - started) * 1000)
        return report

    async def _body(self, delivery: webhooks_pb2.WebhookDelivery) -> JsonObject:
        make_body = self._bodies[delivery.webhook.target.dialect]
        async with asyncio.timeout(LEASE_SLACK_SECONDS / 2):
            return await make_body(self._gateway, delivery.request)

    async def _headers(self, delivery: webhooks_pb2.WebhookDelivery, body: bytes) -> dict[str, str]:
        webhook = delivery.webhook
        sealed = Sealed(webhook.request_id, webhook.tenant, int(self._unix_seconds()), body)
        if webhook.target.dialect == webhooks_pb2.WEBHOOK_DIALECT_FAL:
            # Asked for each time: another gateway, or an operator, may have made a new one.
            keys = await self._gateway.platform.signing_keys(self._gateway.own_credential)
            signed = fal_headers(sealed, keys[0].private_key)
        else:
            message_id = f"msg_{webhook.request_id}_completed"
            signed = standard_headers(sealed, message_id, delivery.secret)
        return {"content-type": "application/json", **signed}


@contextlib.asynccontextmanager
async def delivering(deliverer: Deliverer) -> AsyncIterator[None]:
    """Delivers for as long as the context is open."""
    task = asyncio.create_task(deliverer.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
