"""What TLS is asked for: the flags and the variables that name its files, and addresses.

`HOST:PORT` is plain text and `grpcs://HOST:PORT` is TLS, wherever an address to dial is given.
Nothing here imports gRPC, which a worker's host must not wait for before it reads its first bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address

TLS_SCHEME = "grpcs://"
CA, CERTIFICATE, KEY = "QUICKTHAW_TLS_CA", "QUICKTHAW_TLS_CERT", "QUICKTHAW_TLS_KEY"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What one who dials trusts and shows, as PEM files. Raises SettingsInvalid for half a pair."""

    ca: Path | None = None
    """The authorities whose certificates count; None for the system's."""
    certificate: Path | None = None
    """One's own with its chain, for those who ask for it; None for none."""
    key: Path | None = None

    def __post_init__(self) -> None:
        _both(self.certificate, self.key)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.ca, self.certificate, self.key) if path is not None)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What one who listens shows, and whom it lets in."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Authorities, one of which must have signed a caller's certificate; None to ask for none."""


def server_tls(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> ServerTls | None:
    """From the flags; None for plain text. Raises SettingsInvalid where they do not make sense."""
    _both(certificate, key)
    if certificate is None or key is None:
        if client_ca is not None:
            raise SettingsInvalid(
                "--tls-client-ca needs TLS: give --tls-cert and --tls-key with it"
            )
        return None
    return ServerTls(certificate, key, client_ca)


def _both(certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        missing = "key" if key is None else "certificate"
        raise SettingsInvalid(
            f"TLS wants a certificate and its key, and the {missing} is missing: give both"
        )


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
