"""The keys of the data directory: made at a first start, or taken over by an empty store."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.keys import Scope, hash_secret, key_id_of, new_key
from quickthaw.scheduler.metrics import STANDARD_CLASS
from quickthaw.scheduler.settings import Settings
from quickthaw.scheduler.store.keys import key_record, key_records, key_rows
from quickthaw.scheduler.store.store import Store
from quickthaw.wire.errors import SettingsInvalid

logger = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
KEY_FILES = {
    "admin.key": frozenset({Scope.ADMIN, Scope.CALL}),
    "worker.key": frozenset({Scope.WORKER}),
}


async def provide_key_files(settings: Settings, store: Store, clock: Clock) -> None:
    """A file that is not there gets a new key, because the secret of the one before is nowhere any
    more. One that is there is given to a store without any key, such as a new one in place of one
    that was lost: nobody could enter otherwise. Raises SettingsInvalid for a file without a key."""
    empty = not await store.reader.run(lambda connection: key_records(connection, "", 1))
    tenant_class = settings.tenant_classes.get(DEFAULT_TENANT, STANDARD_CLASS)
    for name, scopes in KEY_FILES.items():
        path = settings.data_dir / name
        given = _read(path)
        if given is not None and not empty:
            await _say_if_unknown(store, path, given)
            continue
        label = f"{name} of the data directory"
        record, secret = new_key(
            tenant=DEFAULT_TENANT,
            scopes=scopes,
            label=label,
            now_ms=clock.now_ms(),
            secret=given,
        )
        await store.journal.offer(key_rows(record, tenant_class))
        if given is not None:
            logger.warning("%s is a key of this store from now on, which had none", path)
            continue
        _write(path, secret)
        if empty:
            logger.info("made the first key in %s", path)
        else:
            logger.warning("made a new key in %s: the file was gone, older keys stay valid", path)


def _read(path: Path) -> str | None:
    """The key in it; None if there is no such file."""
    if not path.is_file():
        return None
    secret = path.read_text(encoding="utf-8", errors="replace").strip()
    if key_id_of(secret) is None:
        raise SettingsInvalid(f"{path} holds no key (qt_...): remove it to have a new one made")
    return secret


async def _say_if_unknown(store: Store, path: Path, secret: str) -> None:
    key_id = key_id_of(secret) or ""
    record = await store.reader.run(lambda connection: key_record(connection, key_id))
    if record is None or hash_secret(secret) not in (
        record.secret_sha256,
        record.old_secret_sha256,
    ):
        logger.warning("the store does not know the key in %s: remove it to have one made", path)


def _write(path: Path, secret: str) -> None:
    """Readable by its owner alone from its first byte on, and never half written."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
