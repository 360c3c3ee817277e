"""Small secrets handed out to be handed back: encrypted, bound to a purpose, good for a while.

What the gateway must remember between two requests of a caller travels with the caller, so that any
replica with the same secret understands it and nothing is stored. AES-256-GCM; the purpose is
authenticated with the text, so that a seal made for one thing is none for another.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from quickthaw.gateway.json_text import Json, JsonObject, object_or_empty
from quickthaw.wire.errors import InvalidArgument

SEAL_CHARS_MAX: Final = 8192
_ALPHABET: Final = re.compile("[A-Za-z0-9_-]+")
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_EXPIRES: Final = "exp"


class SealBroken(Exception):
    """Not made by us for this, altered, or too old; which of them is nobody's business."""


class Sealer:
    def __init__(self, secret: bytes, now: Callable[[], float] = time.time) -> None:
        """`secret`: shared by replicas. `now`: seconds since 1970."""
        key = HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"quickthaw seal 1").derive(secret)
        self._cipher = AESGCM(key)
        self._now = now

    def seal(self, purpose: str, content: Mapping[str, Json], seconds: float) -> str:
        """URL-safe text that `unseal` takes back for the next `seconds`.

        Raises InvalidArgument for more than fits a seal, which only callers' own words can be.
        """
        whole = {**content, _EXPIRES: self._now() + seconds}
        nonce = secrets.token_bytes(_NONCE_BYTES)
        text = json.dumps(whole, separators=(",", ":")).encode()
        sealed = _text(nonce + self._cipher.encrypt(nonce, text, purpose.encode()))
        if len(sealed) > SEAL_CHARS_MAX:
            raise InvalidArgument(
                "what was asked for is too long together: give fewer or shorter names and rules"
            )
        return sealed

    def unseal(self, purpose: str, seal: str) -> JsonObject:
        """What was sealed. Raises SealBroken."""
        # The decoder passes over what is no base64, so that many texts would be the same seal.
        if len(seal) > SEAL_CHARS_MAX or not _ALPHABET.fullmatch(seal):
            raise SealBroken
        try:
            raw = base64.urlsafe_b64decode(seal.encode("ascii") + b"=" * (-len(seal) % 4))
            if _text(raw) != seal:  # base64 has several spellings of an end; a seal has one
                raise SealBroken
            nonce, encrypted = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            text = self._cipher.decrypt(nonce, encrypted, purpose.encode())
        except (ValueError, binascii.Error, InvalidTag) as error:
            raise SealBroken from error
        content = object_or_empty(text.decode())
        # Only we can have written it.
        if cast("float", content.pop(_EXPIRES)) <= self._now():
            raise SealBroken
        return content


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
