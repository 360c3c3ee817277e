"""The files behind TLS between the parts, and what gRPC makes of them.

What is renewed by somebody else (cert-manager, certbot, a person) is read again without a restart:
`Renewed` looks at the files whenever it is asked to, and an unfinished or unfit renewal leaves what
is in use. Only this module makes credentials, and only `dialling` makes channels of them.
"""

from __future__ import annotations

import datetime
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

import grpc

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.tls_settings import ServerTls, TlsFiles

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Renewed(Generic[T]):
    """What is made of files, and made again when whoever renews them has written new ones.

    `make` reads the files and raises SettingsInvalid for what cannot be used, here as well. What
    `what` names is told to the log. Safe to use from several threads.
    """

    def __init__(self, paths: Sequence[Path], make: Callable[[], T], what: str) -> None:
        self._paths = tuple(paths)
        self._make = make
        self._what = what
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self.value = make()

    def refresh(self) -> bool:
        """Looks at the files; whether `value` is a new one. Files that do not fit, such as a pair
        one half of which is written yet, are told to the log once and change nothing."""
        with self._lock:
            if (stamp := self._stamp()) == self._seen:
                return False
            self._seen = stamp
            try:
                self.value = self._make()
            except SettingsInvalid as error:
                logger.warning("%s of before stays: %s", self._what, error.message)
                return False
            logger.info("read again: %s", self._what)
            return True

    def _stamp(self) -> _Stamp:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Looks at the files at each handshake. Raises SettingsInvalid if they cannot be used."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        pair = read_pair(tls.certificate, tls.key)
        return grpc.ssl_server_certificate_configuration(
            [pair], None if tls.client_ca is None else read_authorities(tls.client_ca)
        )

    paths = [path for path in (tls.certificate, tls.key, tls.client_ca) if path is not None]
    files = Renewed(paths, configuration, f"the certificate {tls.certificate}")

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        return files.value if files.refresh() else None

    return grpc.dynamic_ssl_server_credentials(
        files.value,
        # None is for what has not changed, which the stubs do not know.
        cast("Callable[[], grpc.ServerCertificateConfiguration]", renewed),
        require_client_authentication=tls.client_ca is not None,
    )


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Reads the files. Raises SettingsInvalid for those that cannot be used."""
    roots = system_roots() if files.ca is None else read_authorities(files.ca)
    if files.certificate is None or files.key is None:
        return grpc.ssl_channel_credentials(roots)
    key, chain = read_pair(files.certificate, files.key)
    return grpc.ssl_channel_credentials(roots, key, chain)


def system_roots() -> bytes | None:
    """The file that OpenSSL would look into (`SSL_CERT_FILE` goes first); None where there is none,
    and gRPC falls back on the list that it brings along."""
    path = ssl.get_default_verify_paths().cafile
    try:
        return Path(path).read_bytes() if path else None
    except OSError:
        return None


def read_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """The key and the chain as they are in the files. Raises SettingsInvalid, naming the file.

    A certificate that has expired is a warning: whoever dials refuses it, until it is renewed.
    """
    # Not at the top: cryptography takes longer to import than the rest, and most run without TLS.
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    chain_pem, key_pem = _read("certificate", certificate), _read("key", key)
    leaf = _certificates(certificate, chain_pem)[0]
    try:
        public = load_pem_private_key(key_pem, None).public_key()
    except TypeError as error:
        raise SettingsInvalid(
            f"the TLS key {key} is encrypted; give one without a passphrase"
        ) from error
    except ValueError as error:
        raise SettingsInvalid(f"the TLS key {key} holds no private key in PEM") from error
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if public.public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise SettingsInvalid(
            f"the TLS key {key} does not belong to the certificate {certificate}; its own "
            "certificate must be the first in the file"
        )
    if leaf.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        logger.warning(
            "the certificate %s has expired (%s); renew it", certificate, leaf.not_valid_after_utc
        )
    return key_pem, chain_pem


def read_authorities(path: Path) -> bytes:
    """Raises SettingsInvalid, naming the file."""
    content = _read("authority", path)
    _certificates(path, content)
    return content


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsInvalid(
            f"the TLS {what} {path} cannot be read: {error.strerror or error}"
        ) from error


def _certificates(path: Path, content: bytes) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(content)
    except ValueError as error:
        raise SettingsInvalid(f"{path} holds no certificate in PEM") from error
