"""Tenants and their keys."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable

import grpc.aio

from quickthaw.scheduler import auth
from quickthaw.scheduler.budgeting import Budgeting
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.convert.billing import key_message
from quickthaw.scheduler.convert.keys import key_limits
from quickthaw.scheduler.convert.words import SCOPE_FROM_WIRE, SCOPE_TO_WIRE, checked_text, invalid
from quickthaw.scheduler.keys import (
    LABEL_CHARS_MAX,
    KeyRecord,
    KeyRing,
    Scope,
    check_tenant,
    new_key,
    rotated_key,
)
from quickthaw.scheduler.metrics import SchedulerMetrics
from quickthaw.scheduler.store.account_rows import is_tenant
from quickthaw.scheduler.store.journal import Journal
from quickthaw.scheduler.store.keys import changed_key_row, key_record, key_records, key_rows
from quickthaw.scheduler.store.reader import Reader
from quickthaw.scheduler.store.statements import Row, Statement, Value
from quickthaw.scheduler.unbroken import unbroken
from quickthaw.v1 import billing_pb2, billing_pb2_grpc
from quickthaw.wire import errors

Context = grpc.aio.ServicerContext[object, object]

KEYS_LISTED_MAX = 10_000
GRACE_MS_MAX = 30 * 86_400_000


class AccountsServicer(billing_pb2_grpc.AccountsServicer):
    def __init__(
        self,
        *,
        journal: Journal,
        reader: Reader,
        keys: KeyRing,
        clock: Clock,
        metrics: SchedulerMetrics,
        budgeting: Budgeting,
        new_tenant_credit_nanodollars: int,
    ) -> None:
        """`new_tenant_credit_nanodollars`: what a new tenant may spend, 0 for what it likes."""
        self._journal = journal
        self._reader = reader
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._budgeting = budgeting
        self._new_tenant_credit_nanodollars = new_tenant_credit_nanodollars
        # Two revocations at once must not both find another admin key, nor two changes of a key
        # each undo the other.
        self._changing = asyncio.Lock()

    @unbroken
    async def CreateKey(
        self, request: billing_pb2.CreateKeyRequest, context: Context
    ) -> billing_pb2.CreateKeyResponse:
        check_tenant(request.tenant)
        now_ms = self._clock.now_ms()
        _check_expiry(request.expires_unix_ms, now_ms)
        record, secret = new_key(
            tenant=request.tenant,
            scopes=_scopes(request.scopes),
            label=checked_text("label", request.label, chars_max=LABEL_CHARS_MAX),
            now_ms=now_ms,
            expires_ms=request.expires_unix_ms,
            limits=key_limits(request.limits),
        )
        tenant_class = self._metrics.tenant_class(request.tenant)
        new = not await self._reader.run(lambda c: is_tenant(c, request.tenant))
        if new and self._new_tenant_credit_nanodollars:
            # Before the key, so that nothing can be asked for with it meanwhile.
            await self._budgeting.greet(request.tenant, self._new_tenant_credit_nanodollars)
        await self._journal.offer(key_rows(record, tenant_class))
        self._keys.put(record)
        return billing_pb2.CreateKeyResponse(key=key_message(record), secret=secret)

    async def ListKeys(
        self, request: billing_pb2.ListKeysRequest, context: Context
    ) -> billing_pb2.ListKeysResponse:
        tenant = checked_text("tenant", request.tenant, chars_max=64)
        found = await self._reader.run(lambda c: key_records(c, tenant, KEYS_LISTED_MAX))
        return billing_pb2.ListKeysResponse(
            keys=[
                key_message(
                    dataclasses.replace(key, last_used_unix_ms=self._keys.last_used_ms(key))
                )
                for key in found
            ]
        )

    @unbroken
    async def RevokeKey(
        self, request: billing_pb2.RevokeKeyRequest, context: Context
    ) -> billing_pb2.RevokeKeyResponse:
        async with self._changing:
            record = await self._find(request.key_id)
            if record.revoked_unix_ms == 0:
                record = await self._revoke(record)
        return billing_pb2.RevokeKeyResponse(key=key_message(record))

    @unbroken
    async def RotateKey(
        self, request: billing_pb2.RotateKeyRequest, context: Context
    ) -> billing_pb2.RotateKeyResponse:
        if not 0 <= request.grace_ms <= GRACE_MS_MAX:
            raise invalid("grace_ms", f"must be 0 to {GRACE_MS_MAX} (30 days)")
        async with self._changing:
            record = await self._find(request.key_id)
            now_ms = self._clock.now_ms()
            if not _is_valid(record, now_ms):
                raise errors.FailedPrecondition(
                    f"the key {record.key_id} was revoked or has expired; make a new one"
                )
            rotated, secret = rotated_key(record, now_ms, request.grace_ms)
            await self._change(rotated)
        return billing_pb2.RotateKeyResponse(key=key_message(rotated), secret=secret)

    @unbroken
    async def UpdateKey(
        self, request: billing_pb2.UpdateKeyRequest, context: Context
    ) -> billing_pb2.UpdateKeyResponse:
        async with self._changing:
            record = await self._find(request.key_id)
            changed = record
            if request.HasField("label"):
                label = checked_text("label", request.label, chars_max=LABEL_CHARS_MAX)
                changed = dataclasses.replace(changed, label=label)
            if request.HasField("expires_unix_ms"):
                _check_expiry(request.expires_unix_ms, self._clock.now_ms())
                changed = dataclasses.replace(changed, expires_unix_ms=request.expires_unix_ms)
                if request.expires_unix_ms:
                    await self._check_not_the_last_admin(record)
            if request.HasField("limits"):
                changed = dataclasses.replace(changed, limits=key_limits(request.limits))
            if changed != record:
                await self._change(changed)
        return billing_pb2.UpdateKeyResponse(key=key_message(changed))

    async def WhoAmI(
        self, request: billing_pb2.WhoAmIRequest, context: Context
    ) -> billing_pb2.WhoAmIResponse:
        who = auth.caller()
        scopes = sorted(SCOPE_TO_WIRE[scope] for scope in who.scopes)
        return billing_pb2.WhoAmIResponse(tenant=who.tenant, scopes=scopes)

    async def _find(self, key_id: str) -> KeyRecord:
        """Raises KeyNotFound."""
        name = checked_text("key_id", key_id, chars_max=32, required=True)
        record = await self._reader.run(lambda connection: key_record(connection, name))
        if record is None:
            raise errors.KeyNotFound(
                f"there is no key {name!r}; Accounts.ListKeys or `quickthaw keys` lists them"
            )
        return record

    async def _change(self, record: KeyRecord) -> None:
        await self._journal.offer([changed_key_row(record)])
        self._keys.changed(record)

    async def _check_not_the_last_admin(self, record: KeyRecord) -> None:
        if Scope.ADMIN not in record.scopes:
            return
        now_ms = self._clock.now_ms()
        everyone = await self._reader.run(lambda c: key_records(c, "", KEYS_LISTED_MAX))
        others = (key for key in everyone if key.key_id != record.key_id)
        if not any(Scope.ADMIN in key.scopes and _is_valid(key, now_ms) for key in others):
            raise errors.FailedPrecondition(
                "it is the last valid admin key; make another one first"
            )

    async def _revoke(self, record: KeyRecord) -> KeyRecord:
        await self._check_not_the_last_admin(record)
        now_ms = self._clock.now_ms()
        values: dict[str, Value] = {"key_key_id": record.key_id, "revoked_unix_ms": now_ms}
        await self._journal.offer([Row(Statement.REVOKE_KEY, values)])
        revoked = dataclasses.replace(record, revoked_unix_ms=now_ms)
        self._keys.changed(revoked)
        return revoked


def _is_valid(key: KeyRecord, now_ms: int) -> bool:
    expired = key.expires_unix_ms and key.expires_unix_ms <= now_ms
    return not key.revoked_unix_ms and not expired


def _check_expiry(expires_unix_ms: int, now_ms: int) -> None:
    if expires_unix_ms and expires_unix_ms <= now_ms:
        raise invalid("expires_unix_ms", "must lie in the future, or be 0 for never")


def _scopes(wire_scopes: Iterable[int]) -> frozenset[Scope]:
    try:
        scopes = frozenset(SCOPE_FROM_WIRE[scope] for scope in wire_scopes)
    except KeyError as error:
        raise invalid("scopes", f"{error.args[0]} is no scope") from error
    if not scopes:
        raise invalid("scopes", "must name at least one of CALL, ADMIN and WORKER")
    return scopes
