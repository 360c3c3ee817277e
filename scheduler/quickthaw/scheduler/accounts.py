"""New tenants and keys, and the keys that a first start makes."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from quickthaw.scheduler.ids import new_key_id, new_key_secret
from quickthaw.scheduler.keys import UNLIMITED, KeyLimits, KeyRecord, Scope, hash_secret
from quickthaw.scheduler.store.statements import Row, Statement, Value

logger = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
KEY_FILES = {
    "admin.key": frozenset({Scope.ADMIN, Scope.CALL}),
    "worker.key": frozenset({Scope.WORKER}),
}


def new_key(
    *,
    tenant: str,
    scopes: frozenset[Scope],
    label: str,
    now_ms: int,
    expires_ms: int = 0,
    limits: KeyLimits = UNLIMITED,
) -> tuple[KeyRecord, str]:
    """The record to keep and the secret to hand out once."""
    key_id = new_key_id()
    secret = new_key_secret(key_id)
    record = KeyRecord(
        key_id=key_id,
        tenant=tenant,
        scopes=scopes,
        label=label,
        secret_sha256=hash_secret(secret),
        created_unix_ms=now_ms,
        expires_unix_ms=expires_ms,
        limits=limits,
    )
    return record, secret


def rotated_key(key: KeyRecord, now_ms: int, grace_ms: int) -> tuple[KeyRecord, str]:
    """The record with a new secret, whose old one is good for `grace_ms` more, and the secret."""
    secret = new_key_secret(key.key_id)
    record = dataclasses.replace(
        key,
        secret_sha256=hash_secret(secret),
        rotated_unix_ms=now_ms,
        old_secret_sha256=key.secret_sha256 if grace_ms else "",
        old_secret_until_unix_ms=now_ms + grace_ms if grace_ms else 0,
    )
    return record, secret


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


def limits_from_json(text: str) -> KeyLimits:
    """What `_limits_json` wrote."""
    given = json.loads(text)
    return KeyLimits(**{**given, "models": tuple(given.get("models", ()))})


def missing_key_files(data_dir: Path) -> Sequence[Path]:
    return [path for name in KEY_FILES if not (path := data_dir / name).is_file()]


def write_key_file(path: Path, secret: str) -> None:
    """Readable by its owner alone from its first byte on, and never half written."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
