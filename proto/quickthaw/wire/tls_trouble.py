"""Why two ends of a connection do not trust or understand each other, in words.

gRPC tells all of it in one text under UNAVAILABLE, which says nothing to most people, and of some
mistakes only that a socket was closed. Those are looked into once more by a handshake of our own.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.tls import TlsFiles, read_pair

LOOK_SECONDS = 2.0

_NOT_CONNECTED = "failed to connect"
_CLOSED = ("Socket closed", "Connection reset", "Broken pipe", "recvmsg", "endpoint closed")


def explain(text: str, address: Address, files: TlsFiles | None) -> str | None:
    """What is wrong and what to do; None where it is not TLS that stands between the two.

    `text` is what gRPC said of a call that failed; `files` None is for a channel in plain text. May
    block for LOOK_SECONDS, and does so only where somebody listens who hangs up at once.
    """
    if "WRONG_VERSION_NUMBER" in text:
        return (
            f"{address} speaks no TLS: give its address without grpcs://, or start what listens "
            "there with --tls-cert and --tls-key"
        )
    if "certificate has expired" in text:
        return (
            f"the certificate of {address} has expired (or this machine's clock is wrong): renew it"
        )
    if "certificate is not yet valid" in text:
        return f"the certificate of {address} is not valid yet: one of the two clocks is wrong"
    if "Hostname Verification Check failed" in text:
        return (
            f"the certificate of {address} is for other names than {address.host}: dial a name "
            "that it has, or have this one put in"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        trusted = files.ca if files is not None and files.ca is not None else "the system's roots"
        return (
            f"the certificate of {address} is signed by no authority in {trusted}: name its "
            "authority by --tls-ca, or QUICKTHAW_TLS_CA"
        )
    if "ALPN" in text:
        return f"{address} speaks TLS but no gRPC: give the scheduler's address, not a gateway's"
    if _NOT_CONNECTED in text and any(word in text for word in _CLOSED):
        return _look(address, files)
    return None


def _look(address: Address, files: TlsFiles | None) -> str | None:
    """Shakes hands once, in plain text's place or with our own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent, and what is to be believed of the other end gRPC has decided already.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if files is not None and files.certificate is not None and files.key is not None:
        try:
            read_pair(files.certificate, files.key)
            context.load_cert_chain(files.certificate, files.key)
        except (SettingsInvalid, OSError):
            return None
    first = b""
    try:
        with (
            socket.create_connection((address.host, address.port), LOOK_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=address.host) as secure,
        ):
            if files is None:
                return f"{address} speaks TLS: write grpcs://{address}"
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                first = secure.recv(1)
    except (OSError, ValueError):
        return None
    return None if first else _not_let_in(address, files.certificate)


def _not_let_in(address: Address, certificate: Path | None) -> str:
    """A gRPC server speaks first; one that ends the connection in place of that wants another
    certificate, which TLS 1.3 looks at when the client believes that all is well."""
    if certificate is None:
        return (
            f"{address} asks for a certificate of who calls: give one by --tls-cert and --tls-key, "
            "or QUICKTHAW_TLS_CERT and QUICKTHAW_TLS_KEY"
        )
    return (
        f"{address} does not accept the certificate {certificate}: it has expired, is not for "
        "clients, or is signed by none of the authorities of --tls-client-ca there"
    )
