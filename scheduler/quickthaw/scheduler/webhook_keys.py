"""What webhooks are signed with: Ed25519 keys for everybody, one secret for each tenant.

fal's receivers check with public keys that anyone may fetch, Replicate's with a secret of their
own account. The secrets of the tenants are derived from one that is made with the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.store.store import Store
from quickthaw.scheduler.store.webhooks import SigningKeyRow, signing_key_row, signing_keys
from quickthaw.scheduler.unbroken import unbroken

KEPT_MS = 24 * 3_600_000
"""How long a key is published after it was replaced: receivers may cache keys for as long."""

_ED25519, _HMAC = "ed25519", "hmac"
_PURPOSE = b"quickthaw webhook secret 1\n"


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    private_key: bytes
    created_ms: int

    @property
    def public_key(self) -> bytes:
        return (
            Ed25519PrivateKey.from_private_bytes(self.private_key).public_key().public_bytes_raw()
        )


class WebhookKeys:
    """Make it with `load`."""

    def __init__(
        self, store: Store, clock: Clock, root: bytes, keys: Sequence[SigningKeyRow]
    ) -> None:
        self._store = store
        self._clock = clock
        self._root = root
        self._keys = list(keys)
        self._rotating = asyncio.Lock()

    @classmethod
    async def load(cls, store: Store, clock: Clock) -> WebhookKeys:
        """With new keys if there are none. Raises StoreUnavailable and the like."""
        roots = await store.reader.run(lambda c: signing_keys(c, _HMAC))
        keys = await store.reader.run(lambda c: signing_keys(c, _ED25519))
        rows = []
        if not roots:
            roots = [_new_key(clock)]
            rows.append(signing_key_row(roots[0], _HMAC))
        if not keys:
            keys = [_new_key(clock)]
            rows.append(signing_key_row(keys[0], _ED25519))
        if rows:
            await store.journal.offer(rows)
        return cls(store, clock, roots[0].private_key, keys)

    def published(self) -> list[SigningKey]:
        """Newest first: the one that signs, and those that were replaced less than a day ago."""
        oldest_ms = self._clock.now_ms() - KEPT_MS
        kept = [
            key
            for index, key in enumerate(self._keys)
            if index == 0 or self._keys[index - 1].created_ms > oldest_ms
        ]
        return [SigningKey(key.kid, key.private_key, key.created_ms) for key in kept]

    @unbroken
    async def rotate(self) -> SigningKey:
        async with self._rotating:
            made = _new_key(self._clock)
            await self._store.journal.offer([signing_key_row(made, _ED25519)])
            self._keys.insert(0, made)
        return self.published()[0]

    def secret(self, tenant: str) -> bytes:
        return hmac.digest(self._root, _PURPOSE + tenant.encode(), hashlib.sha256)


def _new_key(clock: Clock) -> SigningKeyRow:
    return SigningKeyRow(secrets.token_hex(8), secrets.token_bytes(32), clock.now_ms())
