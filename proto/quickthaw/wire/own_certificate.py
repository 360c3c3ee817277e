"""What a server of HTTP shows by TLS, read again when whoever renews it has written a new one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.tls import Renewed, read_pair


def bare_context() -> ssl.SSLContext:
    """With what every connection agrees to, and no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class OwnCertificate:
    """`context` stays the same object; what it shows to new connections changes with `refresh`.

    Raises SettingsInvalid if the two files are not a certificate and its key.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = bare_context()
        self._files = Renewed((certificate, key), self._load, f"the certificate {certificate}")

    def refresh(self) -> None:
        """Looks at the files, as `Renewed` does."""
        self._files.refresh()

    def _load(self) -> None:
        key, chain = read_pair(self._certificate, self._key)
        try:
            # OpenSSL's wrapper reads files only, and what was tried must be what is used.
            with tempfile.NamedTemporaryFile(prefix="quickthaw-") as pair:
                pair.write(key + b"\n" + chain)
                pair.flush()
                for context in (bare_context(), self.context):
                    context.load_cert_chain(pair.name)
        except (OSError, ssl.SSLError) as error:
            raise SettingsInvalid(
                f"the certificate {self._certificate} with the key {self._key}: {error}"
            ) from error


@contextlib.asynccontextmanager
async def renewing(refresh: Callable[[], object], every_seconds: float) -> AsyncIterator[None]:
    """Looks for renewed files while the context is open."""

    async def look() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            refresh()

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
