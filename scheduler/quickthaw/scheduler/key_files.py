"""The keys that a first start makes, as files of the data directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.keys import Scope, new_key
from quickthaw.scheduler.metrics import STANDARD_CLASS
from quickthaw.scheduler.settings import Settings
from quickthaw.scheduler.store.keys import key_records, key_rows
from quickthaw.scheduler.store.store import Store

logger = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
KEY_FILES = {
    "admin.key": frozenset({Scope.ADMIN, Scope.CALL}),
    "worker.key": frozenset({Scope.WORKER}),
}


async def make_missing_keys(settings: Settings, store: Store, clock: Clock) -> None:
    """The key files of a first start. A file that was deleted is replaced by a new key, because
    the old one's secret is nowhere any more."""
    missing = _missing(settings.data_dir)
    if not missing:
        return
    stored = await store.reader.run(lambda connection: key_records(connection, "", 1))
    for path in missing:
        record, secret = new_key(
            tenant=DEFAULT_TENANT,
            scopes=KEY_FILES[path.name],
            label=f"{path.name} of the data directory",
            now_ms=clock.now_ms(),
        )
        tenant_class = settings.tenant_classes.get(DEFAULT_TENANT, STANDARD_CLASS)
        await store.journal.offer(key_rows(record, tenant_class))
        _write(path, secret)
        if stored:
            logger.warning("made a new key in %s: the file was gone, older keys stay valid", path)
        else:
            logger.info("made the first key in %s", path)


def _missing(data_dir: Path) -> Sequence[Path]:
    return [path for name in KEY_FILES if not (path := data_dir / name).is_file()]


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
