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
from quickthaw.wire.tls import read_pair
from quickthaw.wire.tls_settings import TlsFiles

LOOK_SECONDS = 2.0

_NOT_CONNECTED = "failed to connect"
_UNCLEAR = (
    *("Socket closed", "Connection reset", "Broken pipe", "recvmsg", "endpoint closed"),
    # Of a name's addresses gRPC tells of the last one alone, and `localhost` is two, one of which
    # most often refuses.
    "Connection refused",
)
_OTHER_NAME = ("Hostname Verification Check failed", "ostname mismatch", "address mismatch")


def explain(text: str, address: Address, files: TlsFiles | None) -> str | None:
    """What is wrong and what to do; None where it is not TLS that stands between the two.

    `text` is what gRPC said of a call that failed; `files` None is for a channel in plain text. May
    block for LOOK_SECONDS, and does so only where connecting ended at once.
    """
    if (told := _of_words(text, address, files)) is not None:
        return told
    if _NOT_CONNECTED in text and any(words in text for words in _UNCLEAR):
        return _look(address, files)
    return None


def _of_words(text: str, address: Address, files: TlsFiles | None) -> str | None:
    """From what gRPC says or OpenSSL."""
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
    if any(words in text for words in _OTHER_NAME):
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
    return None


def _look(address: Address, files: TlsFiles | None) -> str | None:
    """Shakes hands once; sends nothing."""
    first = b""
    try:
        context = _context(files)
        with (
            socket.create_connection((address.host, address.port), LOOK_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=address.host) as secure,
        ):
            if files is None:
                return f"{address} speaks TLS: write grpcs://{address}"
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                first = secure.recv(1)
    except ssl.SSLError as error:
        return None if files is None else _of_words(str(error), address, files)
    except (SettingsInvalid, OSError, ValueError):
        return None
    return None if first else _not_let_in(address, files.certificate)


def _context(files: TlsFiles | None) -> ssl.SSLContext:
    """Raises as reading the files does."""
    if files is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Whether there is TLS at all is the question, and not whose.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cafile=files.ca)
    context.set_alpn_protocols(["h2"])
    if files is not None and files.certificate is not None and files.key is not None:
        read_pair(files.certificate, files.key)
        context.load_cert_chain(files.certificate, files.key)
    return context


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
