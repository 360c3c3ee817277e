"""Webhooks on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quickthaw.scheduler.convert.requests import request_message
from quickthaw.scheduler.convert.webhook_targets import target_message
from quickthaw.scheduler.convert.words import invalid, storable
from quickthaw.scheduler.views import RequestView
from quickthaw.scheduler.webhook_keys import SigningKey
from quickthaw.scheduler.webhook_rules import (
    ERROR_CHARS_MAX,
    Attempt,
    Webhook,
    WebhookState,
)
from quickthaw.v1 import webhooks_pb2

_STATES: Mapping[WebhookState, webhooks_pb2.WebhookState.ValueType] = {
    WebhookState.WAITING: webhooks_pb2.WEBHOOK_STATE_WAITING,
    WebhookState.DUE: webhooks_pb2.WEBHOOK_STATE_DUE,
    WebhookState.DELIVERED: webhooks_pb2.WEBHOOK_STATE_DELIVERED,
    WebhookState.FAILED: webhooks_pb2.WEBHOOK_STATE_FAILED,
}
_STATES_FROM_WIRE = {int(wire): ours for ours, wire in _STATES.items()}


def webhook_message(webhook: Webhook) -> webhooks_pb2.Webhook:
    return webhooks_pb2.Webhook(
        request_id=webhook.request_id,
        tenant=webhook.tenant,
        target=target_message(webhook.target),
        state=_STATES[webhook.state],
        attempts=webhook.attempts,
        due_unix_ms=webhook.due_ms,
        created_unix_ms=webhook.created_ms,
        history=[
            webhooks_pb2.WebhookAttempt(
                unix_ms=each.unix_ms,
                status=each.status,
                error=each.error,
                spent_ms=each.spent_ms,
            )
            for each in webhook.history
        ],
    )


def state_message(state: WebhookState) -> webhooks_pb2.WebhookState.ValueType:
    return _STATES[state]


def states(wire: Iterable[int]) -> list[WebhookState]:
    """Raises InvalidArgument."""
    try:
        return [_STATES_FROM_WIRE[state] for state in wire]
    except KeyError as error:
        raise invalid("states", f"{error.args[0]} is no state") from error


def attempt(message: webhooks_pb2.WebhookAttempt, now_ms: int) -> Attempt:
    return Attempt(
        unix_ms=now_ms,
        status=min(max(0, message.status), 999),
        error=storable(message.error)[:ERROR_CHARS_MAX],
        spent_ms=max(0, message.spent_ms),
    )


def delivery_message(
    webhook: Webhook, view: RequestView, secret: bytes
) -> webhooks_pb2.WebhookDelivery:
    return webhooks_pb2.WebhookDelivery(
        lease_id=webhook.lease_id,
        webhook=webhook_message(webhook),
        request=request_message(view),
        secret=secret,
    )


def signing_key_message(key: SigningKey) -> webhooks_pb2.SigningKey:
    return webhooks_pb2.SigningKey(
        kid=key.kid,
        private_key=key.private_key,
        public_key=key.public_key,
        created_unix_ms=key.created_ms,
    )
