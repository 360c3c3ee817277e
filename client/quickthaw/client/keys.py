"""Tenants' keys, as `Client.keys` and `AsyncClient.keys`."""

from __future__ import annotations

from collections.abc import Sequence

from quickthaw.client import methods
from quickthaw.client.async_driver import AsyncDriver
from quickthaw.client.billing import NO_LIMITS, Key, KeyLimits, NewKey, Scope
from quickthaw.client.convert import enum_from_wire, scope_to_wire
from quickthaw.client.retry import Context, call_with_retry
from quickthaw.client.steps import Operation
from quickthaw.client.sync_driver import SyncDriver
from quickthaw.v1 import billing_pb2

GRACE_MS = 24 * 3_600_000
"""How long the old secret stays good after a rotation, where nobody says."""

_Keys = tuple[Key, ...]


def key_from_wire(message: billing_pb2.Key) -> Key:
    limits = message.limits
    name_of = billing_pb2.Scope.Name
    return Key(
        key_id=message.key_id,
        tenant=message.tenant,
        scopes=tuple(enum_from_wire(Scope, name_of, "SCOPE_", each) for each in message.scopes),
        label=message.label,
        created_unix_ms=message.created_unix_ms,
        expires_unix_ms=message.expires_unix_ms,
        revoked_unix_ms=message.revoked_unix_ms,
        limits=KeyLimits(
            limits.requests_per_minute,
            limits.concurrent_requests,
            limits.request_price_nanodollars,
            tuple(limits.models),
        ),
        last_used_unix_ms=message.last_used_unix_ms,
        rotated_unix_ms=message.rotated_unix_ms,
        old_secret_until_unix_ms=message.old_secret_until_unix_ms,
    )


def _limits_to_wire(limits: KeyLimits) -> billing_pb2.KeyLimits:
    return billing_pb2.KeyLimits(
        requests_per_minute=limits.requests_per_minute,
        concurrent_requests=limits.concurrent_requests,
        request_price_nanodollars=limits.request_price_nanodollars,
        models=limits.models,
    )


def create_key(
    context: Context,
    tenant: str,
    scopes: Sequence[Scope],
    label: str,
    expires_unix_ms: int,
    limits: KeyLimits,
) -> Operation[NewKey]:
    message = billing_pb2.CreateKeyRequest(
        tenant=tenant,
        scopes=[scope_to_wire(scope) for scope in scopes],
        label=label,
        expires_unix_ms=expires_unix_ms,
        limits=_limits_to_wire(limits),
    )
    answer = yield from call_with_retry(context, methods.CREATE_KEY, message)
    return NewKey(key_from_wire(answer.key), answer.secret)


def list_keys(context: Context, tenant: str) -> Operation[_Keys]:
    message = billing_pb2.ListKeysRequest(tenant=tenant)
    answer = yield from call_with_retry(context, methods.LIST_KEYS, message)
    return tuple(key_from_wire(key) for key in answer.keys)


def revoke_key(context: Context, key_id: str) -> Operation[Key]:
    message = billing_pb2.RevokeKeyRequest(key_id=key_id)
    answer = yield from call_with_retry(context, methods.REVOKE_KEY, message)
    return key_from_wire(answer.key)


def rotate_key(context: Context, key_id: str, grace_ms: int) -> Operation[NewKey]:
    message = billing_pb2.RotateKeyRequest(key_id=key_id, grace_ms=grace_ms)
    answer = yield from call_with_retry(context, methods.ROTATE_KEY, message)
    return NewKey(key_from_wire(answer.key), answer.secret)


def update_key(
    context: Context,
    key_id: str,
    label: str | None,
    expires_unix_ms: int | None,
    limits: KeyLimits | None,
) -> Operation[Key]:
    message = billing_pb2.UpdateKeyRequest(
        key_id=key_id,
        label=label,
        expires_unix_ms=expires_unix_ms,
        limits=None if limits is None else _limits_to_wire(limits),
    )
    answer = yield from call_with_retry(context, methods.UPDATE_KEY, message)
    return key_from_wire(answer.key)


class Keys:
    """Tenants' keys, as `Client.keys`. Needs the scope `admin`."""

    def __init__(self, context: Context, driver: SyncDriver) -> None:
        self._context = context
        self._driver = driver

    def create(
        self,
        tenant: str,
        scopes: Sequence[Scope] = (Scope.CALL,),
        *,
        label: str = "",
        expires_unix_ms: int = 0,
        limits: KeyLimits = NO_LIMITS,
    ) -> NewKey:
        """Makes a key, and the tenant if it is new. The secret cannot be read again.

        Not repeated after a broken connection, since that could leave a key that nobody knows.
        Raises InvalidArgument.
        """
        return self._driver.drive(
            create_key(self._context, tenant, scopes, label, expires_unix_ms, limits)
        )

    def list(self, tenant: str = "") -> _Keys:
        """The keys of a tenant, or of all."""
        return self._driver.drive(list_keys(self._context, tenant))

    def revoke(self, key_id: str) -> Key:
        """Takes effect at once. Raises KeyNotFound, FailedPrecondition (the last admin key)."""
        return self._driver.drive(revoke_key(self._context, key_id))

    def rotate(self, key_id: str, *, grace_ms: int = GRACE_MS) -> NewKey:
        """Gives the key a new secret; the old one is good for `grace_ms` more, at most 30 days.

        Not repeated after a broken connection. Raises KeyNotFound, FailedPrecondition (it was
        revoked or has expired), InvalidArgument.
        """
        return self._driver.drive(rotate_key(self._context, key_id, grace_ms))

    def update(
        self,
        key_id: str,
        *,
        label: str | None = None,
        expires_unix_ms: int | None = None,
        limits: KeyLimits | None = None,
    ) -> Key:
        """Changes what is given, at once. Raises KeyNotFound, InvalidArgument, FailedPrecondition
        (it would end the last admin key)."""
        return self._driver.drive(update_key(self._context, key_id, label, expires_unix_ms, limits))


class AsyncKeys:
    """Tenants' keys, as `Client.keys`. Needs the scope `admin`."""

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver

    async def create(
        self,
        tenant: str,
        scopes: Sequence[Scope] = (Scope.CALL,),
        *,
        label: str = "",
        expires_unix_ms: int = 0,
        limits: KeyLimits = NO_LIMITS,
    ) -> NewKey:
        """As `Client.keys.create`, with its errors."""
        return await self._driver.drive(
            create_key(self._context, tenant, scopes, label, expires_unix_ms, limits)
        )

    async def list(self, tenant: str = "") -> _Keys:
        """As `Client.keys.list`, with its errors."""
        return await self._driver.drive(list_keys(self._context, tenant))

    async def revoke(self, key_id: str) -> Key:
        """As `Client.keys.revoke`, with its errors."""
        return await self._driver.drive(revoke_key(self._context, key_id))

    async def rotate(self, key_id: str, *, grace_ms: int = GRACE_MS) -> NewKey:
        """As `Client.keys.rotate`, with its errors."""
        return await self._driver.drive(rotate_key(self._context, key_id, grace_ms))

    async def update(
        self,
        key_id: str,
        *,
        label: str | None = None,
        expires_unix_ms: int | None = None,
        limits: KeyLimits | None = None,
    ) -> Key:
        """As `Client.keys.update`, with its errors."""
        return await self._driver.drive(
            update_key(self._context, key_id, label, expires_unix_ms, limits)
        )
