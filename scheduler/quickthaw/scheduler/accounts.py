"""New tenants and keys, and the keys that a first start makes."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from quickthaw.scheduler.ids import new_key_id, new_key_secret
from quickthaw.scheduler.keys import KeyRecord, Scope, hash_secret
from quickthaw.scheduler.store.statements import Row, Statement

logger = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
KEY_FILES = {
    "admin.key": frozenset({Scope.ADMIN, Scope.CALL}),
    "worker.key": frozenset({Scope.WORKER}),
}


def new_key(
    *, tenant: str, scopes: frozenset[Scope], label: str, now_ms: int, expires_ms: int = 0
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
                "label": key.label,
                "secret_sha256": key.secret_sha256,
                "created_unix_ms": key.created_unix_ms,
                "expires_unix_ms": key.expires_unix_ms,
                "revoked_unix_ms": key.revoked_unix_ms,
            },
        ),
    ]


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
