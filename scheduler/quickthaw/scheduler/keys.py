"""API keys: who calls, and what the key may do. Only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from quickthaw.scheduler.ids import new_key_id, new_key_secret
from quickthaw.wire import errors

TENANT_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")
LABEL_CHARS_MAX = 100
_SECRET_PATTERN = re.compile(r"qt_([a-z0-9]{12})_[A-Za-z0-9_-]{43}")
_SCHEME = "Key "


class Scope(Enum):
    CALL = "call"
    ADMIN = "admin"
    WORKER = "worker"
    DEPLOY = "deploy"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What the holder may do at most; 0 and the empty tuple are no limit."""

    requests_per_minute: int = 0
    concurrent_requests: int = 0
    request_price_nanodollars: int = 0
    models: tuple[str, ...] = ()
    """Catalog ids, or `owner/*`."""

    def admit(self, model_id: str) -> bool:
        owner = model_id.partition("/")[0]
        return not self.models or model_id in self.models or f"{owner}/*" in self.models


UNLIMITED = KeyLimits()


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
    limits: KeyLimits = UNLIMITED
    last_used_unix_ms: int = 0
    rotated_unix_ms: int = 0
    old_secret_sha256: str = ""
    """Of the secret before the last rotation, which is good too until the time below."""
    old_secret_until_unix_ms: int = 0

    def accepts(self, secret_sha256: str, now_ms: int) -> bool:
        """Whether it is the key's secret, in the same time whatever it is."""
        current = hmac.compare_digest(self.secret_sha256, secret_sha256)
        old = hmac.compare_digest(self.old_secret_sha256, secret_sha256)
        return current or (old and now_ms < self.old_secret_until_unix_ms)

    def check(self, secret_sha256: str, now_ms: int) -> None:
        """Raises Unauthenticated."""
        # One text for every mistake: whether an id exists is nobody's business.
        if not self.accepts(secret_sha256, now_ms):
            raise _not_valid()
        if self.revoked_unix_ms:
            raise errors.Unauthenticated("the key was revoked; have a new one made")
        if self.expires_unix_ms and self.expires_unix_ms <= now_ms:
            raise errors.Unauthenticated("the key has expired; have a new one made")


def _not_valid() -> errors.Unauthenticated:
    return errors.Unauthenticated("the key is not valid; check it, or have a new one made")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a call, as proven by its key: the record as of then, and which secret it was."""

    record: KeyRecord
    secret_sha256: str = field(repr=False)

    @property
    def tenant(self) -> str:
        return self.record.tenant

    @property
    def key_id(self) -> str:
        return self.record.key_id

    @property
    def scopes(self) -> frozenset[Scope]:
        return self.record.scopes

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


def hash_secret(secret: str) -> str:
    """SHA-256, not a password hash: the secret has 256 bits of chance, so nobody can guess it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def key_id_of(secret: str) -> str | None:
    """None if no key looks like that."""
    match = _SECRET_PATTERN.fullmatch(secret)
    return match[1] if match else None


def new_key(
    *,
    tenant: str,
    scopes: frozenset[Scope],
    label: str,
    now_ms: int,
    expires_ms: int = 0,
    limits: KeyLimits = UNLIMITED,
    secret: str | None = None,
) -> tuple[KeyRecord, str]:
    """The record to keep and the secret to hand out once; `secret`, if there is one already."""
    key_id = (secret and key_id_of(secret)) or new_key_id()
    secret = secret or new_key_secret(key_id)
    record = KeyRecord(
        key_id=key_id,
        tenant=tenant,
        scopes=scopes,
        label=label,
        secret_sha256=hash_secret(secret),
        created_unix_ms=now_ms,
        expires_unix_ms=expires_ms,
        limits=limits,
    )
    return record, secret


def rotated_key(key: KeyRecord, now_ms: int, grace_ms: int) -> tuple[KeyRecord, str]:
    """The record with a new secret, whose old one is good for `grace_ms` more, and the secret."""
    secret = new_key_secret(key.key_id)
    record = replace(
        key,
        secret_sha256=hash_secret(secret),
        rotated_unix_ms=now_ms,
        old_secret_sha256=key.secret_sha256 if grace_ms else "",
        old_secret_until_unix_ms=now_ms + grace_ms if grace_ms else 0,
    )
    return record, secret


def check_tenant(tenant: str) -> None:
    if TENANT_PATTERN.fullmatch(tenant) is None:
        raise errors.InvalidArgument(
            f"tenant {tenant!r} is not a name: use 1 to 64 of a-z, 0-9, '-' and '_'",
            violations=(errors.FieldViolation("tenant", "1 to 64 of a-z, 0-9, '-' and '_'"),),
        )


KeyLoader = Callable[[str], Awaitable[KeyRecord | None]]


class KeyRing:
    """Checks secrets against the store through a bounded cache.

    The scheduler is the store's only writer, so the cache is exact as long as every new key is told
    by `put` and every change by `changed`. Unknown ids are cached too: guessing must not cost a
    read each.
    """

    def __init__(self, load: KeyLoader, cached_max: int) -> None:
        self._load = load
        self._cached_max = cached_max
        self._cached: OrderedDict[str, KeyRecord | None] = OrderedDict()
        # Never forgotten, so that an open stream's record is either here or still true; each is an
        # administrator's deed.
        self._changed: dict[str, KeyRecord] = {}
        self._used: dict[str, int] = {}

    def put(self, record: KeyRecord) -> None:
        """A new key."""
        self._remember(record.key_id, record)

    def changed(self, record: KeyRecord) -> None:
        """Takes effect at once, also for streams that are open."""
        self._changed[record.key_id] = record
        self._remember(record.key_id, record)

    def current(self, key_id: str) -> KeyRecord | None:
        """As far as it is known without a read, which it is for who calls just now."""
        return self._changed.get(key_id) or self._cached.get(key_id)

    def recheck(self, who: Caller, now_ms: int) -> Caller:
        """The caller as of now: a stream may outlive its key. Raises Unauthenticated."""
        record = self._changed.get(who.key_id, who.record)
        record.check(who.secret_sha256, now_ms)
        if who.key_id not in self._cached:
            self._remember(who.key_id, record)
        return who if record is who.record else Caller(record, who.secret_sha256)

    def last_used_ms(self, record: KeyRecord) -> int:
        return self._used.get(record.key_id, record.last_used_unix_ms)

    def take_used(self) -> dict[str, int]:
        """When keys were used since the last time, for the store."""
        used, self._used = self._used, {}
        return used

    def _remember(self, key_id: str, record: KeyRecord | None) -> None:
        self._cached[key_id] = record
        self._cached.move_to_end(key_id)
        while len(self._cached) > self._cached_max:
            self._cached.popitem(last=False)

    async def authenticate(self, authorization: str | None, now_ms: int) -> Caller:
        """The caller that the `authorization` metadata proves. Raises Unauthenticated."""
        if authorization is None:
            raise errors.Unauthenticated(
                "no key: send 'authorization: Key qt_...', in gRPC's metadata or HTTP's headers "
                "(the first admin key is in admin.key in the scheduler's data directory)"
            )
        if not authorization.startswith(_SCHEME):
            raise errors.Unauthenticated("the authorization must read 'Key qt_...'")
        secret = authorization.removeprefix(_SCHEME).strip()
        key_id = key_id_of(secret)
        record = await self._find(key_id) if key_id is not None else None
        if record is None:
            raise _not_valid()
        secret_sha256 = hash_secret(secret)
        record.check(secret_sha256, now_ms)
        self._used[record.key_id] = now_ms
        return Caller(record, secret_sha256)

    async def _find(self, key_id: str) -> KeyRecord | None:
        if key_id in self._cached:
            self._cached.move_to_end(key_id)
            return self._cached[key_id]
        record = await self._load(key_id)
        # A revocation may have been told while the read was under way: it wins.
        if key_id not in self._cached:
            self._remember(key_id, record)
        return self._cached[key_id]
