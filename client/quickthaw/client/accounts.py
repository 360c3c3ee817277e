"""Accounts, as `Client.accounts` and `AsyncClient.accounts`."""

from __future__ import annotations

from collections.abc import Sequence

from quickthaw.client import paying
from quickthaw.client.async_driver import AsyncDriver
from quickthaw.client.billing import Account, Alert, BudgetSpan, Granted
from quickthaw.client.retry import Context
from quickthaw.client.sync_driver import SyncDriver

_Accounts = tuple[Account, ...]
_Alerts = tuple[Alert, ...]


class Accounts:
    """Who pays, and how much he may. Reading others' and changing any needs the scope `admin`.

    A tenant's own account has the empty `key_id`. All may raise NotFound for an unknown tenant,
    KeyNotFound and PermissionDenied.
    """

    def __init__(self, context: Context, driver: SyncDriver) -> None:
        self._context = context
        self._driver = driver

    def get(self, tenant: str = "", key_id: str = "") -> Account:
        """The caller's own tenant's by default."""
        return self._driver.drive(paying.get_account(self._context, tenant, key_id))

    def list(self, tenant: str = "", *, everyone: bool = False) -> _Accounts:
        """A tenant's (the caller's own by default), or everyone's: those that ever spent something
        or have a limit, by name."""
        return self._driver.drive(paying.list_accounts(self._context, tenant, everyone))

    def set_budget(
        self,
        tenant: str,
        key_id: str = "",
        *,
        budget_nanodollars: int | None,
        span: BudgetSpan = BudgetSpan.MONTH,
        alert_percents: Sequence[int] = (),
    ) -> Account:
        """In place of what there was; None for no budget. Raises InvalidArgument."""
        return self._driver.drive(
            paying.set_budget(
                self._context, tenant, key_id, budget_nanodollars, span, alert_percents
            )
        )

    def grant(
        self,
        tenant: str,
        key_id: str = "",
        *,
        amount_nanodollars: int,
        note: str = "",
        grant_id: str = "",
    ) -> Granted:
        """Gives credit, or below 0 takes some back; the first makes the account prepaid. With a
        `grant_id` of the caller's it is given once, however often this is called. Raises
        InvalidArgument, and AlreadyExists if the id was used for another grant."""
        return self._driver.drive(
            paying.grant(self._context, tenant, key_id, amount_nanodollars, note, grant_id)
        )

    def lock(self, tenant: str, key_id: str = "", *, reason: str = "") -> Account:
        """It takes on no requests and starts none; what runs ends."""
        return self._driver.drive(paying.set_lock(self._context, tenant, key_id, True, reason))

    def unlock(self, tenant: str, key_id: str = "") -> Account:
        """It goes on as before."""
        return self._driver.drive(paying.set_lock(self._context, tenant, key_id, False, ""))

    def alerts(self, tenant: str = "", *, everyone: bool = False) -> _Alerts:
        """Thresholds that were crossed, newest first."""
        return self._driver.drive(paying.list_alerts(self._context, tenant, everyone))


class AsyncAccounts:
    """As `Accounts`, with its errors."""

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver

    async def get(self, tenant: str = "", key_id: str = "") -> Account:
        """As `Accounts.get`."""
        return await self._driver.drive(paying.get_account(self._context, tenant, key_id))

    async def list(self, tenant: str = "", *, everyone: bool = False) -> _Accounts:
        """As `Accounts.list`."""
        return await self._driver.drive(paying.list_accounts(self._context, tenant, everyone))

    async def set_budget(
        self,
        tenant: str,
        key_id: str = "",
        *,
        budget_nanodollars: int | None,
        span: BudgetSpan = BudgetSpan.MONTH,
        alert_percents: Sequence[int] = (),
    ) -> Account:
        """As `Accounts.set_budget`."""
        return await self._driver.drive(
            paying.set_budget(
                self._context, tenant, key_id, budget_nanodollars, span, alert_percents
            )
        )

    async def grant(
        self,
        tenant: str,
        key_id: str = "",
        *,
        amount_nanodollars: int,
        note: str = "",
        grant_id: str = "",
    ) -> Granted:
        """As `Accounts.grant`."""
        return await self._driver.drive(
            paying.grant(self._context, tenant, key_id, amount_nanodollars, note, grant_id)
        )

    async def lock(self, tenant: str, key_id: str = "", *, reason: str = "") -> Account:
        """As `Accounts.lock`."""
        return await self._driver.drive(
            paying.set_lock(self._context, tenant, key_id, True, reason)
        )

    async def unlock(self, tenant: str, key_id: str = "") -> Account:
        """As `Accounts.unlock`."""
        return await self._driver.drive(paying.set_lock(self._context, tenant, key_id, False, ""))

    async def alerts(self, tenant: str = "", *, everyone: bool = False) -> _Alerts:
        """As `Accounts.alerts`."""
        return await self._driver.drive(paying.list_alerts(self._context, tenant, everyone))
