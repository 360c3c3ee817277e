"""Every statement that changes the store, in the order in which a batch runs them, and its rows."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Delete,
    Dialect,
    Insert,
    Integer,
    String,
    Table,
    Update,
    bindparam,
    delete,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from quickthaw.scheduler.store import schema

Value = str | int | float | bytes


class Statement(IntEnum):
    """The value is the place in a batch: parents before children, ends after openings."""

    INSERT_TENANT = 0
    INSERT_KEY = 1
    REVOKE_KEY = 2
    INSERT_MODEL_VERSION = 3
    DELETE_ALIASES = 4
    DELETE_MODEL = 5
    UPSERT_MODEL = 6
    INSERT_ALIAS = 7
    PURGE_IDEMPOTENCY = 8
    INSERT_IDEMPOTENCY = 9
    INSERT_REQUEST = 10
    OPEN_ATTEMPT = 11
    PROGRESS_ATTEMPT = 12
    METER_ATTEMPT = 13
    END_ATTEMPT = 14
    INSERT_LEDGER = 15
    CANCEL_REQUEST = 16
    UPDATE_REQUEST = 17
    END_REQUEST = 18
    MARK_WORKER = 19
    UNMARK_WORKER = 20
    DELETE_ENDPOINT = 21
    UPSERT_ENDPOINT = 22
    QUARANTINE_MODEL = 23
    RELEASE_MODEL = 24
    DELETE_RELEASES = 25
    INSERT_RELEASE = 26
    INSERT_SHORT_LIVED = 27
    INSERT_SHORT_LIVED_FILES = 28
    INSERT_WEBHOOK = 40
    DUE_WEBHOOK = 41
    CLAIM_WEBHOOK = 42
    SETTLE_WEBHOOK = 43
    INSERT_SIGNING_KEY = 44
    UPSERT_ACCOUNT = 45
    INSERT_GRANT = 46
    INSERT_ALERT = 47
    UPSERT_EXPLANATION = 48
    PURGE_EXPLANATIONS = 49
    CHANGE_KEY = 50
    USE_KEY = 51
    INSERT_DEPLOYMENT = 60
    UPDATE_DEPLOYMENT = 61
    PURGE_DEPLOYMENTS = 62
    DELETE_DEPLOYMENT = 63
    PURGE_ATTEMPTS_OF = 70
    PURGE_WEBHOOK_OF = 71
    PURGE_EXPLANATION_OF = 72
    PURGE_REQUEST = 73
    PURGE_WEBHOOK = 74
    PURGE_LEDGER = 75
    PURGE_ALERTS = 76
    FORGET_REQUEST_IO = 77
    DELETE_SHORT_LIVED = 78
    DELETE_SHORT_LIVED_FILES = 79


NEWEST_ONLY: Mapping[Statement, str] = {Statement.UPSERT_ACCOUNT: "account"}
"""Statements of which a transaction needs only the last row for each value of this column."""


class Row(NamedTuple):
    """One set of values for one statement, by column name (`key_` before those that select)."""

    statement: Statement
    values: dict[str, Value]


_CLAIM = ("attempts", "lease_id", "lease_until_unix_ms")
_SETTLED = ("state", "due_unix_ms", "history_json")
_CHANGED_KEY = (
    *("label", "expires_unix_ms", "limits_json", "secret_sha256", "rotated_unix_ms"),
    *("old_secret_sha256", "old_secret_until_unix_ms"),
)
_DEPLOYMENT = (
    *("state", "attempts", "due_unix_ms", "lease_id", "updated_unix_ms", "finished_unix_ms"),
    "progress_json",
)
_PROGRESS = ("state", "loading_unix_ms", "started_unix_ms", "load_ms", "start_tier")


# In the text itself: a parameter would have to be given with every row.
_ZERO = literal_column("0", Integer)
_ONE = literal_column("1", Integer)
_EMPTY = literal_column("''", String)


def _key(table: Table, column: str) -> ColumnElement[bool]:
    # A parameter may not carry the name of a column that the same statement sets.
    return table.c[column] == bindparam(f"key_{column}")


def constructs(dialect: Dialect) -> dict[Statement, Insert | Update | Delete]:
    """All of them, as a database of this kind takes them."""
    return _Constructs(dialect).all()


class _Constructs:
    def __init__(self, dialect: Dialect) -> None:
        self._postgres = dialect.name == "postgresql"

    def _insert(self, table: Table) -> Insert:
        return table.insert()

    def _insert_if_new(self, table: Table) -> Insert:
        if self._postgres:
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    def _upsert(self, table: Table, changed: tuple[str, ...]) -> Insert:
        keys = [column.name for column in table.primary_key.columns]
        if self._postgres:
            insert = postgresql.insert(table)
            values = {name: insert.excluded[name] for name in changed}
            return insert.on_conflict_do_update(index_elements=keys, set_=values)
        lite = sqlite.insert(table)
        values = {name: lite.excluded[name] for name in changed}
        return lite.on_conflict_do_update(index_elements=keys, set_=values)

    def all(self) -> dict[Statement, Insert | Update | Delete]:
        open_request = schema.requests.c.finished_unix_ms == _ZERO
        open_attempt = schema.attempts.c.ended_unix_ms == _ZERO
        return {
            Statement.INSERT_TENANT: self._insert_if_new(schema.tenants),
            Statement.INSERT_KEY: self._insert(schema.keys),
            Statement.REVOKE_KEY: update(schema.keys)
            .where(_key(schema.keys, "key_id"))
            .values(revoked_unix_ms=bindparam("revoked_unix_ms")),
            Statement.CHANGE_KEY: update(schema.keys)
            .where(_key(schema.keys, "key_id"))
            .values({name: bindparam(name) for name in _CHANGED_KEY}),
            Statement.USE_KEY: update(schema.keys)
            .where(_key(schema.keys, "key_id"))
            .values(last_used_unix_ms=bindparam("last_used_unix_ms")),
            Statement.INSERT_MODEL_VERSION: self._insert_if_new(schema.model_versions),
            Statement.DELETE_ALIASES: delete(schema.model_aliases).where(
                _key(schema.model_aliases, "model_id")
            ),
            Statement.DELETE_MODEL: delete(schema.models).where(_key(schema.models, "model_id")),
            Statement.UPSERT_MODEL: self._upsert(schema.models, ("version", "registered_unix_ms")),
            Statement.INSERT_ALIAS: self._insert(schema.model_aliases),
            Statement.PURGE_IDEMPOTENCY: delete(schema.idempotency).where(
                schema.idempotency.c.created_unix_ms < bindparam("key_created_unix_ms")
            ),
            # An expired row that was not purged yet is taken over.
            Statement.INSERT_IDEMPOTENCY: self._upsert(
                schema.idempotency, ("request_id", "fingerprint", "created_unix_ms")
            ),
            Statement.INSERT_REQUEST: self._insert(schema.requests),
            # Placements are written behind the decision, so the end may have been first.
            Statement.OPEN_ATTEMPT: self._insert_if_new(schema.attempts),
            Statement.METER_ATTEMPT: update(schema.attempts)
            .where(_key(schema.attempts, "attempt_id"), open_attempt)
            .values(metered_ms=bindparam("metered_ms")),
            Statement.PROGRESS_ATTEMPT: update(schema.attempts)
            .where(_key(schema.attempts, "attempt_id"), open_attempt)
            .values({name: bindparam(name) for name in _PROGRESS}),
            Statement.END_ATTEMPT: self._upsert(
                schema.attempts, (*_PROGRESS, "metered_ms", "ended_unix_ms")
            ),
            Statement.INSERT_LEDGER: self._insert_if_new(schema.ledger),
            # Whole and absolute, so that the last one says it all.
            Statement.UPSERT_ACCOUNT: self._upsert(
                schema.accounts, tuple(c.name for c in schema.accounts.columns if not c.primary_key)
            ),
            Statement.INSERT_GRANT: self._insert_if_new(schema.credit_grants),
            Statement.INSERT_ALERT: self._insert_if_new(schema.budget_alerts),
            Statement.CANCEL_REQUEST: update(schema.requests)
            .where(_key(schema.requests, "request_id"), open_request)
            .values(cancel_requested=_ONE),
            # A terminal state is never left, whatever order writes arrive in.
            Statement.UPDATE_REQUEST: update(schema.requests)
            .where(_key(schema.requests, "request_id"), open_request)
            .values(state=bindparam("state"), attempts=bindparam("attempts")),
            Statement.END_REQUEST: update(schema.requests)
            .where(_key(schema.requests, "request_id"), open_request)
            .values(
                state=bindparam("state"),
                attempts=bindparam("attempts"),
                # The guard above compares with the same column, so the parameter needs a name.
                finished_unix_ms=bindparam("ended_unix_ms"),
                output_json=bindparam("output_json"),
                end_proto=bindparam("end_proto"),
            ),
            # A mark that is taken away is overwritten and then deleted, and only while it is
            # empty: in one batch with a newer mark, whichever was last written must stay.
            Statement.MARK_WORKER: self._upsert(
                schema.worker_marks, ("cordoned", "draining", "stop", "incarnation")
            ),
            Statement.UNMARK_WORKER: delete(schema.worker_marks).where(
                _key(schema.worker_marks, "worker_id"),
                schema.worker_marks.c.cordoned == _ZERO,
                schema.worker_marks.c.draining == _ZERO,
            ),
            Statement.DELETE_RELEASES: delete(schema.model_releases).where(
                _key(schema.model_releases, "model_id")
            ),
            Statement.INSERT_RELEASE: self._insert_if_new(schema.model_releases),
            Statement.DELETE_ENDPOINT: delete(schema.endpoints).where(
                _key(schema.endpoints, "model_id")
            ),
            Statement.UPSERT_ENDPOINT: self._upsert(
                schema.endpoints,
                tuple(c.name for c in schema.endpoints.columns if not c.primary_key),
            ),
            # As for marks: a release empties the reason and then deletes what is empty.
            Statement.QUARANTINE_MODEL: self._upsert(
                schema.quarantines, ("snapshot_digest", "reason", "since_unix_ms")
            ),
            Statement.RELEASE_MODEL: delete(schema.quarantines).where(
                _key(schema.quarantines, "model_id"),
                schema.quarantines.c.reason == literal_column("''", String),
            ),
            Statement.INSERT_WEBHOOK: self._insert_if_new(schema.webhooks),
            Statement.DUE_WEBHOOK: update(schema.webhooks)
            .where(
                _key(schema.webhooks, "request_id"),
                schema.webhooks.c.state == literal_column("'waiting'", String),
            )
            .values(state=literal_column("'due'", String), due_unix_ms=bindparam("due_unix_ms")),
            Statement.CLAIM_WEBHOOK: update(schema.webhooks)
            .where(_key(schema.webhooks, "request_id"))
            .values({name: bindparam(name) for name in _CLAIM}),
            Statement.SETTLE_WEBHOOK: update(schema.webhooks)
            .where(_key(schema.webhooks, "request_id"))
            .values({name: bindparam(name) for name in (*_CLAIM, *_SETTLED)}),
            Statement.INSERT_DEPLOYMENT: self._insert(schema.deployments),
            Statement.UPDATE_DEPLOYMENT: update(schema.deployments)
            .where(_key(schema.deployments, "deployment_id"))
            .values({name: bindparam(name) for name in _DEPLOYMENT}),
            Statement.DELETE_DEPLOYMENT: delete(schema.deployments).where(
                _key(schema.deployments, "deployment_id")
            ),
            Statement.PURGE_DEPLOYMENTS: delete(schema.deployments).where(
                schema.deployments.c.finished_unix_ms > _ZERO,
                schema.deployments.c.finished_unix_ms < bindparam("key_finished_unix_ms"),
            ),
            Statement.INSERT_SIGNING_KEY: self._insert(schema.signing_keys),
            Statement.UPSERT_EXPLANATION: self._upsert(schema.explanations, ("body",)),
            # Ids sort by the time of submission. Fewer than `kept` rows make no oldest to keep.
            Statement.PURGE_EXPLANATIONS: delete(schema.explanations).where(
                schema.explanations.c.request_id
                <= select(schema.explanations.c.request_id)
                .order_by(schema.explanations.c.request_id.desc())
                .offset(bindparam("kept"))
                .limit(_ONE)
                .scalar_subquery()
            ),
            Statement.PURGE_ATTEMPTS_OF: delete(schema.attempts).where(
                _key(schema.attempts, "request_id")
            ),
            Statement.PURGE_WEBHOOK_OF: delete(schema.webhooks).where(
                _key(schema.webhooks, "request_id")
            ),
            Statement.PURGE_EXPLANATION_OF: delete(schema.explanations).where(
                _key(schema.explanations, "request_id")
            ),
            Statement.PURGE_REQUEST: delete(schema.requests).where(
                _key(schema.requests, "request_id"), schema.requests.c.finished_unix_ms > _ZERO
            ),
            # What was asked to be delivered again after it was found is not settled any more.
            Statement.PURGE_WEBHOOK: delete(schema.webhooks).where(
                _key(schema.webhooks, "request_id"),
                schema.webhooks.c.state.in_(
                    [literal_column(f"'{state}'", String) for state in ("delivered", "failed")]
                ),
            ),
            Statement.PURGE_LEDGER: delete(schema.ledger).where(_key(schema.ledger, "attempt_id")),
            Statement.INSERT_SHORT_LIVED: self._insert(schema.short_lived),
            Statement.INSERT_SHORT_LIVED_FILES: self._insert(schema.short_lived_files),
            Statement.FORGET_REQUEST_IO: update(schema.requests)
            .where(_key(schema.requests, "request_id"))
            .values(input_json=literal_column("'{}'", String), output_json=_EMPTY),
            Statement.DELETE_SHORT_LIVED: delete(schema.short_lived).where(
                _key(schema.short_lived, "request_id")
            ),
            Statement.DELETE_SHORT_LIVED_FILES: delete(schema.short_lived_files).where(
                _key(schema.short_lived_files, "request_id")
            ),
            Statement.PURGE_ALERTS: delete(schema.budget_alerts).where(
                schema.budget_alerts.c.raised_unix_ms < bindparam("key_raised_unix_ms")
            ),
        }
