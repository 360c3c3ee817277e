"""What gateways do with webhooks, and what callers ask about theirs."""

from __future__ import annotations

import grpc.aio

from quickthaw.scheduler.auth import caller
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.convert import webhooks as convert
from quickthaw.scheduler.convert.pages import page_size
from quickthaw.scheduler.convert.words import checked_text, invalid
from quickthaw.scheduler.webhook_keys import WebhookKeys
from quickthaw.scheduler.webhooks import Webhooks
from quickthaw.v1 import webhooks_pb2, webhooks_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]

CLAIMS_MAX = 16
WAIT_MS_MAX = 30_000
LEASE_MS_MIN, LEASE_MS_MAX = 1_000, 300_000


class WebhooksServicer(webhooks_pb2_grpc.WebhooksServicer):
    def __init__(self, webhooks: Webhooks, keys: WebhookKeys, clock: Clock) -> None:
        self._webhooks = webhooks
        self._keys = keys
        self._clock = clock

    async def Claim(
        self, request: webhooks_pb2.ClaimWebhooksRequest, context: Context
    ) -> webhooks_pb2.ClaimWebhooksResponse:
        for name, value, least, most in (
            ("count_max", request.count_max, 1, CLAIMS_MAX),
            ("wait_ms", request.wait_ms, 0, WAIT_MS_MAX),
            ("lease_ms", request.lease_ms, LEASE_MS_MIN, LEASE_MS_MAX),
        ):
            if not least <= value <= most:
                raise invalid(name, f"must be {least} to {most}, not {value}")
        found = await self._webhooks.claim(
            count_max=request.count_max, wait_ms=request.wait_ms, lease_ms=request.lease_ms
        )
        return webhooks_pb2.ClaimWebhooksResponse(
            deliveries=[
                convert.delivery_message(
                    each.webhook, each.view, self._keys.secret(each.webhook.tenant)
                )
                for each in found
            ]
        )

    async def Report(
        self, request: webhooks_pb2.ReportWebhookRequest, context: Context
    ) -> webhooks_pb2.ReportWebhookResponse:
        after, counted = await self._webhooks.report(
            _request_id(request.request_id),
            request.lease_id,
            convert.attempt(request.attempt, self._clock.now_ms()),
            delivered=request.delivered,
            permanent=request.permanent,
        )
        return webhooks_pb2.ReportWebhookResponse(
            state=convert.state_message(after.state), ignored=not counted
        )

    async def ListSigningKeys(
        self, request: webhooks_pb2.ListSigningKeysRequest, context: Context
    ) -> webhooks_pb2.ListSigningKeysResponse:
        return webhooks_pb2.ListSigningKeysResponse(
            keys=[convert.signing_key_message(key) for key in self._keys.published()]
        )

    async def RotateSigningKey(
        self, request: webhooks_pb2.RotateSigningKeyRequest, context: Context
    ) -> webhooks_pb2.SigningKey:
        return convert.signing_key_message(await self._keys.rotate())

    async def GetSecret(
        self, request: webhooks_pb2.GetWebhookSecretRequest, context: Context
    ) -> webhooks_pb2.GetWebhookSecretResponse:
        tenant = caller().tenant
        return webhooks_pb2.GetWebhookSecretResponse(
            tenant=tenant, secret=self._keys.secret(tenant)
        )

    async def List(
        self, request: webhooks_pb2.ListWebhooksRequest, context: Context
    ) -> webhooks_pb2.ListWebhooksResponse:
        found, token = await self._webhooks.page(
            caller().tenant,
            before_id=checked_text("page.token", request.page.token, chars_max=64),
            states=convert.states(request.states),
            size=page_size(request.page),
        )
        return webhooks_pb2.ListWebhooksResponse(
            webhooks=[convert.webhook_message(each) for each in found], next_page_token=token
        )

    async def Get(
        self, request: webhooks_pb2.GetWebhookRequest, context: Context
    ) -> webhooks_pb2.Webhook:
        found = await self._webhooks.find(caller().tenant, _request_id(request.request_id))
        return convert.webhook_message(found)

    async def Redeliver(
        self, request: webhooks_pb2.RedeliverWebhookRequest, context: Context
    ) -> webhooks_pb2.Webhook:
        after = await self._webhooks.redeliver(caller().tenant, _request_id(request.request_id))
        return convert.webhook_message(after)


def _request_id(text: str) -> str:
    return checked_text("request_id", text, chars_max=64, required=True)
