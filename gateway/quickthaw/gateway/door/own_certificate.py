"""The operator's own certificate, read again when whoever renews it has written a new one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

from quickthaw.gateway.door.authority import bare_context
from quickthaw.wire.errors import SettingsInvalid

logger = logging.getLogger(__name__)

_Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class OwnCertificate:
    """`context` stays the same object; what it shows to new connections changes with `refresh`.

    Raises SettingsInvalid if the two files are not a certificate and its key.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = bare_context()
        self._seen = self._stamp()
        self._load()

    def refresh(self) -> None:
        """Looks at the files. A pair that does not fit, such as one half of which is written yet,
        is told to the log and changes nothing."""
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            self._load()
        except SettingsInvalid as error:
            logger.warning("the certificate of before stays: %s", error.message)
        else:
            logger.info("a new certificate: %s", self._certificate)

    def _stamp(self) -> _Stamp:
        return tuple(map(_stamp, (self._certificate, self._key)))

    def _load(self) -> None:
        try:
            # OpenSSL's wrapper reads files only, and what was tried must be what is used.
            with tempfile.NamedTemporaryFile(prefix="quickthaw-") as pair:
                pair.write(self._key.read_bytes() + b"\n" + self._certificate.read_bytes())
                pair.flush()
                for context in (bare_context(), self.context):
                    context.load_cert_chain(pair.name)
        except (OSError, ssl.SSLError) as error:
            raise SettingsInvalid(
                f"--tls-certificate {self._certificate} with --tls-key {self._key}: {error}"
            ) from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextlib.asynccontextmanager
async def renewing(own: OwnCertificate, every_seconds: float) -> AsyncIterator[None]:
    """Looks for a renewed certificate while the context is open."""

    async def look() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            own.refresh()

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
