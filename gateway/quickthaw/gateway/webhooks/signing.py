"""Headers that prove to a receiver who sent these very bytes, and when.

Receivers allow some minutes between the timestamp and their clock, so each attempt is signed anew.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is signed: one body on its way to one tenant's receiver."""

    request_id: str
    tenant: str
    unix_seconds: int
    body: bytes


def fal_headers(sealed: Sealed, private_key: bytes) -> dict[str, str]:
    """`private_key`: the 32 bytes of an Ed25519 seed."""
    timestamp = str(sealed.unix_seconds)
    digest = hashlib.sha256(sealed.body).hexdigest()
    message = "\n".join((sealed.request_id, sealed.tenant, timestamp, digest))
    signature = Ed25519PrivateKey.from_private_bytes(private_key).sign(message.encode())
    return {
        "x-fal-webhook-request-id": sealed.request_id,
        "x-fal-webhook-user-id": sealed.tenant,
        "x-fal-webhook-timestamp": timestamp,
        "x-fal-webhook-signature": signature.hex(),
    }


def standard_headers(sealed: Sealed, message_id: str, secret: bytes) -> dict[str, str]:
    """As the Standard Webhooks specification has them. `message_id` is the same for every attempt
    at one message, so that a receiver can tell a repetition."""
    timestamp = str(sealed.unix_seconds)
    message = b".".join((message_id.encode(), timestamp.encode(), sealed.body))
    signature = base64.b64encode(hmac.digest(secret, message, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def secret_text(secret: bytes) -> str:
    # Standard base64: a client splits the text at its underscores and wants one.
    return SECRET_PREFIX + base64.b64encode(secret).decode()
