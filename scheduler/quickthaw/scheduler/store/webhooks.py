"""Webhooks and signing keys as rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import RowMapping, select
from sqlalchemy.engine import Connection

from quickthaw.scheduler.store import schema
from quickthaw.scheduler.store.queries import request_view
from quickthaw.scheduler.store.statements import Row, Statement, Value
from quickthaw.scheduler.views import RequestView
from quickthaw.scheduler.webhook_rules import (
    Dialect,
    Target,
    Webhook,
    WebhookState,
    history_from_json,
    history_to_json,
)

_hooks = schema.webhooks.c


@dataclass(frozen=True, slots=True)
class SigningKeyRow:
    kid: str
    private_key: bytes
    created_ms: int


# ---- writes ----------------------------------------------------------------------------------


def webhook_row(request_id: str, tenant: str, target: Target, created_ms: int) -> Row:
    """Goes into the same write as the request's own row. The first of a request stays."""
    return Row(
        Statement.INSERT_WEBHOOK,
        {
            "request_id": request_id,
            "tenant": tenant,
            "url": target.url,
            "dialect": target.dialect.value,
            "events": " ".join(target.events),
            "state": WebhookState.WAITING.value,
            "attempts": 0,
            "due_unix_ms": 0,
            "lease_id": "",
            "lease_until_unix_ms": 0,
            "created_unix_ms": created_ms,
            "history_json": "[]",
        },
    )


def due_row(request_id: str, due_ms: int) -> Row:
    """Only a webhook that waits becomes due by this."""
    return Row(Statement.DUE_WEBHOOK, {"key_request_id": request_id, "due_unix_ms": due_ms})


def claim_row(webhook: Webhook) -> Row:
    return Row(Statement.CLAIM_WEBHOOK, _claim_values(webhook))


def settle_row(webhook: Webhook) -> Row:
    return Row(
        Statement.SETTLE_WEBHOOK,
        {
            **_claim_values(webhook),
            "state": webhook.state.value,
            "due_unix_ms": webhook.due_ms,
            "history_json": history_to_json(webhook.history),
        },
    )


def _claim_values(webhook: Webhook) -> dict[str, Value]:
    return {
        "key_request_id": webhook.request_id,
        "attempts": webhook.attempts,
        "lease_id": webhook.lease_id,
        "lease_until_unix_ms": webhook.lease_until_ms,
    }


def signing_key_row(key: SigningKeyRow, kind: str) -> Row:
    return Row(
        Statement.INSERT_SIGNING_KEY,
        {
            "kid": key.kid,
            "kind": kind,
            "private_key": key.private_key,
            "created_unix_ms": key.created_ms,
        },
    )


# ---- reads -----------------------------------------------------------------------------------


def webhook(connection: Connection, request_id: str) -> Webhook | None:
    statement = select(schema.webhooks).where(_hooks.request_id == request_id)
    row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else _webhook(row)


def waiting_webhooks(connection: Connection) -> list[str]:
    """The requests of those that wait for their request's end."""
    statement = select(_hooks.request_id).where(_hooks.state == WebhookState.WAITING.value)
    return list(connection.execute(statement).scalars())


def due_webhooks(
    connection: Connection, now_ms: int, *, without_tenants: Collection[str], size_max: int
) -> list[tuple[Webhook, RequestView]]:
    """Those that nobody has leased, longest due first, each with its request."""
    statement = (
        select(schema.webhooks)
        .where(
            _hooks.state == WebhookState.DUE.value,
            _hooks.due_unix_ms <= now_ms,
            _hooks.lease_until_unix_ms <= now_ms,
            _hooks.tenant.not_in(sorted(without_tenants)),
        )
        .order_by(_hooks.due_unix_ms, _hooks.request_id)
        .limit(size_max)
    )
    found: list[tuple[Webhook, RequestView]] = []
    for row in connection.execute(statement).mappings().all():
        view = request_view(connection, row["request_id"])
        if view is not None:
            found.append((_webhook(row), view))
    return found


def webhook_page(
    connection: Connection,
    tenant: str,
    *,
    before_id: str,
    states: Sequence[WebhookState],
    size: int,
) -> list[Webhook]:
    """Newest request first; those older than `before_id` unless it is empty."""
    statement = select(schema.webhooks).where(_hooks.tenant == tenant)
    if before_id:
        statement = statement.where(_hooks.request_id < before_id)
    if states:
        statement = statement.where(_hooks.state.in_([state.value for state in states]))
    statement = statement.order_by(_hooks.request_id.desc()).limit(size)
    return [_webhook(row) for row in connection.execute(statement).mappings()]


def signing_keys(connection: Connection, kind: str) -> list[SigningKeyRow]:
    """Newest first."""
    columns = schema.signing_keys.c
    statement = (
        select(schema.signing_keys)
        .where(columns.kind == kind)
        .order_by(columns.created_unix_ms.desc(), columns.kid)
    )
    return [
        SigningKeyRow(row["kid"], bytes(row["private_key"]), row["created_unix_ms"])
        for row in connection.execute(statement).mappings()
    ]


def _webhook(row: RowMapping) -> Webhook:
    return Webhook(
        request_id=row["request_id"],
        tenant=row["tenant"],
        target=Target(row["url"], Dialect(row["dialect"]), tuple(row["events"].split())),
        state=WebhookState(row["state"]),
        created_ms=row["created_unix_ms"],
        attempts=row["attempts"],
        due_ms=row["due_unix_ms"],
        lease_id=row["lease_id"],
        lease_until_ms=row["lease_until_unix_ms"],
        history=history_from_json(row["history_json"]),
    )
