"""How a channel is made to another part, plain or with TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

import grpc
import grpc.aio

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.tls import Renewed, channel_credentials
from quickthaw.wire.tls_settings import TlsFiles
from quickthaw.wire.tls_trouble import explain

RETIRED_SECONDS = 3600.0
"""For what is under way by a connection whose certificate was renewed."""

Options: TypeAlias = Sequence[tuple[str, int]]


class Dialler:
    """Makes channels to one place. `files` None is for plain text.

    Raises SettingsInvalid for files that cannot be used.
    """

    def __init__(self, target: str, files: TlsFiles | None, options: Options) -> None:
        """`target`: HOST:PORT, or any other name that gRPC resolves."""
        self.target = target
        self._files = files
        self._options = list(options)
        self._credentials = (
            None
            if files is None
            else Renewed(
                files.paths,
                lambda: channel_credentials(files),
                f"the certificate for {target}",
            )
        )

    def open(self) -> grpc.aio.Channel:
        """For the caller to close; belongs to the event loop of its first use."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, options=self._options)
        return grpc.aio.secure_channel(self.target, self._credentials.value, options=self._options)

    def open_blocking(self) -> grpc.Channel:
        """For the caller to close."""
        if self._credentials is None:
            return grpc.insecure_channel(self.target, self._options)
        return grpc.secure_channel(self.target, self._credentials.value, self._options)

    @property
    def renewable(self) -> bool:
        return self._files is not None and bool(self._files.paths)

    def refresh(self) -> bool:
        """Whether the files have changed, so that a channel made now would be another. Those that
        are open go on as they are, but would reconnect with what they were made of."""
        return self._credentials is not None and self._credentials.refresh()

    def trouble(self, text: str) -> str | None:
        """What TLS has to do with a failed call of which gRPC says `text`; see `explain`."""
        try:
            address = Address.parse(self.target)
        except SettingsInvalid:
            return None
        return explain(text, address, self._files)


class Retired:
    """Channels that are used no more: what goes by them ends, and then they are closed."""

    def __init__(self) -> None:
        self._closing: set[asyncio.Task[None]] = set()

    def add(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.create_task(channel.close(RETIRED_SECONDS))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Waits no longer."""
        closing = tuple(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
