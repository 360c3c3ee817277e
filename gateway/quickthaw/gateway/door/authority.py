"""A certificate authority of this installation alone, and certificates made when asked for.

It is made at first start and trusted by nobody who was not told to: `ca.pem` is for programs that
add to their roots, `bundle.pem` (it and the public roots) for those that replace them. A critical
name constraint keeps its key from vouching for anything but the names in `names`.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quickthaw.gateway.door.names import (
    DEFAULT_NAME,
    PERMITTED_DOMAINS,
    PERMITTED_NETWORKS,
    permitted,
)
from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.own_certificate import bare_context

logger = logging.getLogger(__name__)

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 90
LEAF_USED_DAYS: Final = 30
"""After which a name gets a new one, however long the process lives."""
LEAVES_MAX: Final = 256
COMMON_NAME_CHARS_MAX: Final = 64
_CLOCK_SKEW: Final = datetime.timedelta(hours=1)


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Authority:
    """`ca.pem`, `ca.key` (mode 0600) and `bundle.pem` in `folder`, made if they are not there.

    Raises SettingsInvalid if the folder cannot be written or holds something else.
    """

    def __init__(self, folder: Path, utc_now: Callable[[], datetime.datetime] = _utc_now) -> None:
        self._utc_now = utc_now
        self.ca_path = folder / "ca.pem"
        self.bundle_path = folder / "bundle.pem"
        self._key_path = folder / "ca.key"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _alone(folder):  # gateways that start at once share what the first one makes
                if not self._key_path.exists():
                    _make(self._key_path, self.ca_path)
                self._key, self._certificate = _load(self._key_path, self.ca_path)
                _write_bundle(self.bundle_path, self.ca_path)
        except (OSError, ValueError, TypeError) as error:
            raise SettingsInvalid(
                f"the local certificate authority in {folder} cannot be used: {error}; "
                "remove the folder to have a new one made, and tell clients of it again"
            ) from error
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: dict[str, tuple[ssl.SSLContext, datetime.datetime]] = {}
        """By name, with the time until which it is used."""

    @property
    def ca_pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def server_context(self, own: ssl.SSLContext | None = None) -> ssl.SSLContext:
        """For a listener: each connection gets the certificate of the name that it asked for.

        `own`: the operator's certificate, for every name that is not the local authority's.
        """
        outer = own or bare_context()

        def on_name(
            connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext
        ) -> None:
            wanted = (name or DEFAULT_NAME).lower()
            if permitted(wanted):
                connection.context = self.context_for(wanted)
            elif own is None:
                # Somebody else's name: our own certificate tells the client why it cannot trust us.
                connection.context = self.context_for(DEFAULT_NAME)

        outer.sni_callback = on_name
        return outer

    def context_for(self, name: str) -> ssl.SSLContext:
        """With a certificate for one permitted name (and 127.0.0.1 for the default one)."""
        now = self._utc_now()
        context, until = self._contexts.get(name, (None, now))
        if context is None or until <= now:
            self._contexts.pop(name, None)
            if len(self._contexts) >= LEAVES_MAX:
                del self._contexts[next(iter(self._contexts))]
            context = self._make_context(name)
            self._contexts[name] = context, now + datetime.timedelta(days=LEAF_USED_DAYS)
        return context

    @property
    def leaf_key_pem(self) -> bytes:
        """Of all certificates that this object makes."""
        return _pem(self._leaf_key)

    def leaf_pem(self, name: str) -> bytes:
        """A new certificate for one permitted name, with its chain."""
        return self._leaf(name).public_bytes(serialization.Encoding.PEM) + self.ca_pem

    def _make_context(self, name: str) -> ssl.SSLContext:
        context = bare_context()
        # OpenSSL's wrapper reads certificates from files only.
        with tempfile.NamedTemporaryFile(prefix="quickthaw-") as file:
            file.write(self.leaf_key_pem + self.leaf_pem(name))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def _leaf(self, name: str) -> x509.Certificate:
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if name == DEFAULT_NAME:
            names += [
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.IPAddress(ipaddress.ip_address("::1")),
            ]
        now = self._utc_now()
        return (
            x509.CertificateBuilder()
            # For people to read; clients look at the alternative names.
            .subject_name(_named(name[:COMMON_NAME_CHARS_MAX]))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + datetime.timedelta(days=LEAF_DAYS))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The kernel lets go of the lock with the process. Raises OSError."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(key_path: Path, ca_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named("Quickthaw local authority")
    now = datetime.datetime.now(datetime.UTC)
    constraints = x509.NameConstraints(
        permitted_subtrees=[
            *(x509.DNSName(domain) for domain in PERMITTED_DOMAINS),
            *(x509.IPAddress(network) for network in PERMITTED_NETWORKS),
        ],
        excluded_subtrees=None,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key comes last: where it exists, the certificate does.
    _write(ca_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(key_path, _pem(key), 0o600)
    logger.info("made a local certificate authority: %s", ca_path)


def _load(key_path: Path, ca_path: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    certificate = x509.load_pem_x509_certificate(ca_path.read_bytes())
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{key_path} holds another kind of key")
    if certificate.public_key() != key.public_key():
        raise ValueError(f"{ca_path} does not belong to {key_path}")
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise ValueError(f"{ca_path} has expired")
    return key, certificate


def _write_bundle(path: Path, ca_path: Path) -> None:
    wanted = ca_path.read_bytes() + Path(certifi.where()).read_bytes()
    if not path.exists() or path.read_bytes() != wanted:
        _write(path, wanted, 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by more than `mode` says."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
