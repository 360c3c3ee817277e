"""What operators do with accounts, in the core and in the store."""

from __future__ import annotations

import asyncio

from quickthaw.scheduler.core.accounts import (
    AccountChange,
    AccountId,
    Alert,
    Grant,
    GrantCredit,
    SetBudget,
    SetLock,
)
from quickthaw.scheduler.core.events import AccountChanged
from quickthaw.scheduler.core.machine import AccountNow
from quickthaw.scheduler.core.model import TenantId
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.ids import new_grant_id
from quickthaw.scheduler.keys import check_tenant
from quickthaw.scheduler.store import account_rows
from quickthaw.scheduler.store.keys import key_record
from quickthaw.scheduler.store.reader import Reader
from quickthaw.scheduler.unbroken import unbroken
from quickthaw.wire import errors

ACCOUNTS_LISTED_MAX = 10_000
ALERTS_LISTED_MAX = 1_000


class Budgeting:
    """Belongs to the event loop. Every change is durable when its method returns."""

    def __init__(self, dispatcher: Dispatcher, reader: Reader) -> None:
        self._dispatcher = dispatcher
        self._reader = reader
        # A grant's id is looked up and used: two calls with one id must not both find it new.
        self._granting = asyncio.Lock()

    async def account(self, tenant: str, key_id: str) -> AccountNow:
        """Raises KeyNotFound, NotFound."""
        return self._dispatcher.machine.account(await self._known(tenant, key_id))

    def accounts(self, tenant: str) -> list[AccountNow]:
        """Of one tenant, or of all for an empty name."""
        found = [
            each
            for each in self._dispatcher.machine.accounts()
            if not tenant or each.account.id.tenant == tenant
        ]
        return found[:ACCOUNTS_LISTED_MAX]

    async def alerts(self, tenant: str) -> list[Alert]:
        """Of one tenant, or of all for an empty name; newest first."""
        return await self._reader.run(
            lambda connection: account_rows.alerts(connection, tenant, ALERTS_LISTED_MAX)
        )

    async def change(self, tenant: str, key_id: str, change: SetBudget | SetLock) -> AccountNow:
        return await self._change(await self._known(tenant, key_id), change)

    @unbroken
    async def grant(
        self, tenant: str, key_id: str, amount_nanodollars: int, note: str, grant_id: str
    ) -> tuple[AccountNow, str, bool]:
        """The account, the grant's id, and whether it had been given before. Raises AlreadyExists
        if the id was used for another grant."""
        account_id = await self._known(tenant, key_id)
        grant_id = grant_id or new_grant_id()
        async with self._granting:
            given = await self._reader.run(
                lambda connection: account_rows.grant(connection, grant_id)
            )
            if given is None:
                now_ms = self._dispatcher.clock.now_ms()
                grant = Grant(grant_id, amount_nanodollars, note, now_ms)
                return await self._change(account_id, GrantCredit(grant)), grant_id, False
        same = (given.account, given.grant.amount_nanodollars)
        if same != (str(account_id), amount_nanodollars):
            raise errors.AlreadyExists(
                f"the grant {grant_id!r} gave {given.grant.amount_nanodollars} nano-dollars to "
                f"{given.account}; use a new id for another one"
            )
        return self._dispatcher.machine.account(account_id), grant_id, True

    @unbroken
    async def greet(self, tenant: str, amount_nanodollars: int) -> None:
        """What a new tenant begins with; once, however often it is asked for."""
        async with self._granting:
            grant_id = f"new-tenant:{tenant}"
            if await self._reader.run(lambda c: account_rows.grant(c, grant_id)) is None:
                now_ms = self._dispatcher.clock.now_ms()
                grant = Grant(grant_id, amount_nanodollars, "for a new tenant", now_ms)
                await self._change(AccountId(TenantId(tenant)), GrantCredit(grant))

    async def _change(self, account_id: AccountId, change: AccountChange) -> AccountNow:
        self._dispatcher.feed(AccountChanged(account_id, change))
        now = self._dispatcher.machine.account(account_id)
        await self._dispatcher.durable()
        return now

    async def _known(self, tenant: str, key_id: str) -> AccountId:
        check_tenant(tenant)
        if not await self._reader.run(lambda c: account_rows.is_tenant(c, tenant)):
            raise errors.NotFound(
                f"there is no tenant {tenant!r}; `quickthaw keys create {tenant}` makes it"
            )
        if key_id:
            key = await self._reader.run(lambda connection: key_record(connection, key_id))
            if key is None or key.tenant != tenant:
                raise errors.KeyNotFound(
                    f"the tenant {tenant!r} has no key {key_id!r}; `quickthaw keys --tenant "
                    f"{tenant}` lists them"
                )
        return AccountId(TenantId(tenant), key_id)
