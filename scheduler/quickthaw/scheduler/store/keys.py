"""Tenants' keys as rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from sqlalchemy import RowMapping, select
from sqlalchemy.engine import Connection

from quickthaw.scheduler.keys import KeyLimits, KeyRecord, Scope
from quickthaw.scheduler.store import schema
from quickthaw.scheduler.store.statements import Row, Statement, Value

_keys = schema.keys.c


# ---- writes ----------------------------------------------------------------------------------


def key_rows(key: KeyRecord, tenant_class: str) -> list[Row]:
    """The key and, if it is new, its tenant."""
    return [
        Row(
            Statement.INSERT_TENANT,
            {
                "tenant": key.tenant,
                "tenant_class": tenant_class,
                "weight": 1.0,
                "created_unix_ms": key.created_unix_ms,
            },
        ),
        Row(
            Statement.INSERT_KEY,
            {
                "key_id": key.key_id,
                "tenant": key.tenant,
                "scopes": " ".join(sorted(scope.value for scope in key.scopes)),
                "created_unix_ms": key.created_unix_ms,
                "revoked_unix_ms": key.revoked_unix_ms,
                "last_used_unix_ms": key.last_used_unix_ms,
                **_changeable(key),
            },
        ),
    ]


def changed_key_row(key: KeyRecord) -> Row:
    """After a rotation or an update."""
    return Row(Statement.CHANGE_KEY, {"key_key_id": key.key_id, **_changeable(key)})


def used_key_rows(used: Mapping[str, int]) -> list[Row]:
    """When keys, by id, were last used."""
    return [
        Row(Statement.USE_KEY, {"key_key_id": key_id, "last_used_unix_ms": used_ms})
        for key_id, used_ms in used.items()
    ]


def _changeable(key: KeyRecord) -> dict[str, Value]:
    return {
        "label": key.label,
        "expires_unix_ms": key.expires_unix_ms,
        "limits_json": _limits_json(key.limits),
        "secret_sha256": key.secret_sha256,
        "rotated_unix_ms": key.rotated_unix_ms,
        "old_secret_sha256": key.old_secret_sha256,
        "old_secret_until_unix_ms": key.old_secret_until_unix_ms,
    }


def _limits_json(limits: KeyLimits) -> str:
    given = {name: value for name, value in dataclasses.asdict(limits).items() if value}
    return json.dumps(given, sort_keys=True)


# ---- reads -----------------------------------------------------------------------------------


def _key(row: RowMapping) -> KeyRecord:
    return KeyRecord(
        key_id=row["key_id"],
        tenant=row["tenant"],
        scopes=frozenset(Scope(name) for name in row["scopes"].split()),
        label=row["label"],
        secret_sha256=row["secret_sha256"],
        created_unix_ms=row["created_unix_ms"],
        expires_unix_ms=row["expires_unix_ms"],
        revoked_unix_ms=row["revoked_unix_ms"],
        limits=_limits_from_json(row["limits_json"]),
        last_used_unix_ms=row["last_used_unix_ms"],
        rotated_unix_ms=row["rotated_unix_ms"],
        old_secret_sha256=row["old_secret_sha256"],
        old_secret_until_unix_ms=row["old_secret_until_unix_ms"],
    )


def _limits_from_json(text: str) -> KeyLimits:
    """What `_limits_json` wrote."""
    given = json.loads(text)
    return KeyLimits(**{**given, "models": tuple(given.get("models", ()))})


def key_record(connection: Connection, key_id: str) -> KeyRecord | None:
    statement = select(schema.keys).where(_keys.key_id == key_id)
    row = connection.execute(statement).mappings().one_or_none()
    return _key(row) if row is not None else None


def key_records(connection: Connection, tenant: str, size_max: int) -> list[KeyRecord]:
    """Of one tenant or of all, those that were revoked last, else newest first: each self-test of
    a deployment leaves a revoked key, and they must not crowd the others out."""
    revoked = _keys.revoked_unix_ms != 0
    statement = select(schema.keys).order_by(revoked, _keys.created_unix_ms.desc(), _keys.key_id)
    if tenant:
        statement = statement.where(_keys.tenant == tenant)
    rows = connection.execute(statement.limit(size_max)).mappings()
    return [_key(row) for row in rows]
