"""How a channel is made to another part: the one address, plain or with TLS, and its files.

`HOST:PORT` is plain text and `grpcs://HOST:PORT` is TLS, wherever an address to dial is given.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.tls import Renewed, TlsFiles, channel_credentials
from quickthaw.wire.tls_trouble import explain

TLS_SCHEME = "grpcs://"
CA, CERTIFICATE, KEY = "QUICKTHAW_TLS_CA", "QUICKTHAW_TLS_CERT", "QUICKTHAW_TLS_KEY"

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


def add_tls_flags(parser: argparse.ArgumentParser, of: str = "", also: Sequence[str] = ()) -> None:
    """`--tls-ca`, `--tls-cert` and `--tls-key`, of somebody who dials a scheduler.

    `of` goes before the names, as in `--scheduler-tls-ca`; `also` are other names of the first.
    """
    add = parser.add_argument
    add(
        f"--{of}tls-ca",
        *also,
        dest="dial_ca",
        type=Path,
        metavar="PEM",
        help=f"who signed the certificate of a grpcs:// scheduler (${CA}; the system's roots)",
    )
    add(
        f"--{of}tls-cert",
        dest="dial_certificate",
        type=Path,
        metavar="PEM",
        help=f"shown to a scheduler that asks for one (${CERTIFICATE})",
    )
    add(f"--{of}tls-key", dest="dial_key", type=Path, metavar="PEM", help=f"its key (${KEY})")


def dialled(
    given: argparse.Namespace, scheduler: str, environment: Mapping[str, str]
) -> tuple[Address, TlsFiles | None]:
    """`--scheduler` and the flags of `add_tls_flags`. Raises SettingsInvalid."""
    flags = TlsFiles(given.dial_ca, given.dial_certificate, given.dial_key)
    text, files = tls_of(scheduler, flags, environment)
    return Address.parse(text), files


def tls_of(
    address: str, given: TlsFiles, environment: Mapping[str, str]
) -> tuple[str, TlsFiles | None]:
    """The address without its scheme, and the files for it; None for plain text.

    What is not given the environment may name, and nothing there makes an address one with TLS.
    Raises SettingsInvalid for another scheme, and for files that plain text has no use for.
    """
    secure, target = address.startswith(TLS_SCHEME), address.removeprefix(TLS_SCHEME)
    if "://" in target and target.startswith(("http", "grpc")):
        raise SettingsInvalid(
            f"{address!r} is no address of a scheduler: write HOST:PORT, or {TLS_SCHEME}HOST:PORT "
            "for TLS"
        )
    if secure:
        return target, with_environment(given, environment)
    if given.paths:
        raise SettingsInvalid(
            f"{given.paths[0]} is for TLS, and {target} would be called in plain text: write "
            f"{TLS_SCHEME}{target}"
        )
    return target, None


def with_environment(given: TlsFiles, environment: Mapping[str, str]) -> TlsFiles:
    """`given`, and what it leaves out as the environment says. Raises SettingsInvalid."""

    def path(name: str) -> Path | None:
        return Path(environment[name]).expanduser() if environment.get(name) else None

    if given.certificate is not None:
        return TlsFiles(given.ca or path(CA), given.certificate, given.key)
    return TlsFiles(given.ca or path(CA), path(CERTIFICATE), path(KEY))
