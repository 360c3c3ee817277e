"""API keys: who calls, and what the key may do. Only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from quickthaw.wire import errors

TENANT_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")
LABEL_CHARS_MAX = 100
_SECRET_PATTERN = re.compile(r"qt_([a-z0-9]{12})_[A-Za-z0-9_-]{43}")
_SCHEME = "Key "


class Scope(Enum):
    CALL = "call"
    ADMIN = "admin"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as stored. `expires_unix_ms` and `revoked_unix_ms` are 0 for never."""

    key_id: str
    tenant: str
    scopes: frozenset[Scope]
    label: str
    secret_sha256: str
    created_unix_ms: int
    expires_unix_ms: int = 0
    revoked_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a call, as proven by its key."""

    tenant: str
    key_id: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


def hash_secret(secret: str) -> str:
    """SHA-256, not a password hash: the secret has 256 bits of chance, so nobody can guess it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def check_tenant(tenant: str) -> None:
    if TENANT_PATTERN.fullmatch(tenant) is None:
        raise errors.InvalidArgument(
            f"tenant {tenant!r} is not a name: use 1 to 64 of a-z, 0-9, '-' and '_'",
            violations=(errors.FieldViolation("tenant", "1 to 64 of a-z, 0-9, '-' and '_'"),),
        )


KeyLoader = Callable[[str], Awaitable[KeyRecord | None]]


class KeyRing:
    """Checks secrets against the store through a bounded cache.

    The scheduler is the store's only writer, so the cache is exact as long as every change is told
    by `put`. Unknown ids are cached too: guessing must not cost a read each.
    """

    def __init__(self, load: KeyLoader, cached_max: int) -> None:
        self._load = load
        self._cached_max = cached_max
        self._cached: OrderedDict[str, KeyRecord | None] = OrderedDict()

    def put(self, record: KeyRecord) -> None:
        self._remember(record.key_id, record)

    def _remember(self, key_id: str, record: KeyRecord | None) -> None:
        self._cached[key_id] = record
        self._cached.move_to_end(key_id)
        while len(self._cached) > self._cached_max:
            self._cached.popitem(last=False)

    async def authenticate(self, authorization: str | None, now_ms: int) -> Caller:
        """The caller that the `authorization` metadata proves. Raises Unauthenticated."""
        if authorization is None:
            raise errors.Unauthenticated(
                "no key: send the metadata 'authorization: Key qt_...' (the first admin key is in "
                "admin.key in the scheduler's data directory)"
            )
        if not authorization.startswith(_SCHEME):
            raise errors.Unauthenticated("the authorization metadata must read 'Key qt_...'")
        secret = authorization.removeprefix(_SCHEME).strip()
        match = _SECRET_PATTERN.fullmatch(secret)
        record = await self._find(match[1]) if match else None
        # One text for every mistake: whether an id exists is nobody's business.
        if record is None or not hmac.compare_digest(record.secret_sha256, hash_secret(secret)):
            raise errors.Unauthenticated("the key is not valid; check it, or have a new one made")
        if record.revoked_unix_ms:
            raise errors.Unauthenticated("the key was revoked; have a new one made")
        if record.expires_unix_ms and record.expires_unix_ms <= now_ms:
            raise errors.Unauthenticated("the key has expired; have a new one made")
        return Caller(record.tenant, record.key_id, record.scopes)

    async def _find(self, key_id: str) -> KeyRecord | None:
        if key_id in self._cached:
            self._cached.move_to_end(key_id)
            return self._cached[key_id]
        record = await self._load(key_id)
        # A revocation may have been told while the read was under way: it wins.
        if key_id not in self._cached:
            self._remember(key_id, record)
        return self._cached[key_id]
