"""Authorities of tests, and what they sign."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quickthaw.wire.tls_settings import ServerTls, TlsFiles

INTERNAL = "quickthaw.internal"
"""A name that a gateway's local authority does not vouch for."""


@dataclass(frozen=True, slots=True)
class Pair:
    certificate: Path
    key: Path


class TestAuthority:
    """Its certificate is in `folder/NAME.ca.pem`."""

    __test__ = False

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca = folder / f"{name}.ca.pem"
        own = self._signed(self._name, self._key, 30, x509.BasicConstraints(True, None))
        folder.mkdir(parents=True, exist_ok=True)
        put(self.ca, own)

    def pair(
        self, name: str = "part", *, host: str = "localhost", days: int = 10, half: str = ""
    ) -> Pair:
        """A certificate for `host` (by default 127.0.0.1 and INTERNAL too), `days` from its end,
        in place of an earlier one of this `name`. `half`: write the `certificate` or the `key`
        alone."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host)]
        if host == "localhost":
            names += [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(INTERNAL)]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, days, x509.SubjectAlternativeName(names))
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        if half != "key":
            put(pair.certificate, certificate)
        if half != "certificate":
            put(pair.key, private)
        return pair

    def shown(self, *, mutual: bool = False, host: str = "localhost", days: int = 10) -> ServerTls:
        pair = self.pair("server", host=host, days=days)
        return ServerTls(pair.certificate, pair.key, self.ca if mutual else None)

    def dialling(self, name: str | None = None) -> TlsFiles:
        """Who trusts it, with a certificate called `name` of its own if there is a name."""
        if name is None:
            return TlsFiles(self.ca)
        pair = self.pair(name)
        return TlsFiles(self.ca, pair.certificate, pair.key)

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        days: int,
        extension: x509.ExtensionType,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(extension, critical=False)
        )
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def put(path: Path, content: bytes) -> None:
    """As those who renew do it: a new file in place of the old."""
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    draft.replace(path)
