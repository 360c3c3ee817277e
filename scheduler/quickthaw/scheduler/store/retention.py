"""What is old enough to go: found by the reader in small portions, deleted by the journal."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.engine import Connection

from quickthaw.scheduler.store import schema
from quickthaw.scheduler.store.statements import Row, Statement
from quickthaw.scheduler.webhook_rules import WebhookState

SETTLED = (WebhookState.DELIVERED.value, WebhookState.FAILED.value)
_OF_A_REQUEST = (
    Statement.PURGE_ATTEMPTS_OF,
    Statement.PURGE_WEBHOOK_OF,
    Statement.PURGE_EXPLANATION_OF,
    Statement.PURGE_REQUEST,
    Statement.DELETE_SHORT_LIVED,
    Statement.DELETE_SHORT_LIVED_FILES,
)


def ended_requests(connection: Connection, before_ms: int, size_max: int) -> list[str]:
    """Ids of those that ended before, the longest ago first."""
    columns = schema.requests.c
    statement = (
        select(columns.request_id)
        .where(columns.finished_unix_ms > 0, columns.finished_unix_ms < before_ms)
        .order_by(columns.finished_unix_ms)
        .limit(size_max)
    )
    return list(connection.execute(statement).scalars())


def short_lived(connection: Connection, now_ms: int, size_max: int) -> list[str]:
    """Requests that have ended and whose input and output have been kept for long enough. A webhook
    that is still to be told says what they were."""
    request, kept, hook = schema.requests.c, schema.short_lived.c, schema.webhooks.c
    told = select(hook.request_id).where(
        hook.request_id == kept.request_id, hook.state.not_in(SETTLED)
    )
    statement = (
        select(kept.request_id)
        .join_from(schema.short_lived, schema.requests, request.request_id == kept.request_id)
        .where(request.finished_unix_ms > 0, request.finished_unix_ms + kept.kept_ms < now_ms)
        .where(~told.exists())
        .limit(size_max)
    )
    return list(connection.execute(statement).scalars())


def short_lived_files(connection: Connection, now_ms: int, size_max: int) -> list[str]:
    """Requests that have ended and whose files have been kept for long enough."""
    request, kept = schema.requests.c, schema.short_lived_files.c
    statement = (
        select(kept.request_id)
        .join_from(schema.short_lived_files, schema.requests, request.request_id == kept.request_id)
        .where(request.finished_unix_ms > 0, request.finished_unix_ms + kept.kept_ms < now_ms)
        .limit(size_max)
    )
    return list(connection.execute(statement).scalars())


def settled_webhooks(connection: Connection, before_ms: int, size_max: int) -> list[str]:
    """The requests of those that were delivered or given up, and last due before."""
    columns = schema.webhooks.c
    statement = (
        select(columns.request_id)
        .where(columns.state.in_(SETTLED), columns.due_unix_ms < before_ms)
        .limit(size_max)
    )
    return list(connection.execute(statement).scalars())


def closed_lines(connection: Connection, before_ms: int, size_max: int) -> list[str]:
    """Attempts whose ledger line closed before, of the oldest requests.

    No index has all tenants' lines by time; ids have, by the time of submission, so that the oldest
    `size_max` rows are looked at and no more.
    """
    columns = schema.ledger.c
    oldest = (
        select(columns.attempt_id, columns.closed_unix_ms)
        .order_by(columns.attempt_id)
        .limit(size_max)
    )
    return [row[0] for row in connection.execute(oldest) if row[1] < before_ms]


def request_purge(request_ids: Sequence[str]) -> list[Row]:
    """Deletes requests with all that the store has of them but their ledger lines."""
    return [
        Row(statement, {"key_request_id": request_id})
        for statement in _OF_A_REQUEST
        for request_id in request_ids
    ]


def io_purge(request_ids: Sequence[str]) -> list[Row]:
    """Leaves the requests and their bill, without what was asked for and what came of it."""
    return [
        Row(statement, {"key_request_id": request_id})
        for statement in (Statement.FORGET_REQUEST_IO, Statement.DELETE_SHORT_LIVED)
        for request_id in request_ids
    ]


def files_purge(request_ids: Sequence[str]) -> list[Row]:
    """Of requests whose files are deleted."""
    return [
        Row(Statement.DELETE_SHORT_LIVED_FILES, {"key_request_id": request_id})
        for request_id in request_ids
    ]


def webhook_purge(request_ids: Sequence[str]) -> list[Row]:
    """One that was revived meanwhile stays."""
    return [Row(Statement.PURGE_WEBHOOK, {"key_request_id": each}) for each in request_ids]


def ledger_purge(attempt_ids: Sequence[str]) -> list[Row]:
    return [Row(Statement.PURGE_LEDGER, {"key_attempt_id": each}) for each in attempt_ids]


def alert_purge(before_ms: int) -> list[Row]:
    return [Row(Statement.PURGE_ALERTS, {"key_raised_unix_ms": before_ms})]


def idempotency_purge(before_ms: int) -> list[Row]:
    return [Row(Statement.PURGE_IDEMPOTENCY, {"key_created_unix_ms": before_ms})]
