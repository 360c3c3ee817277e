"""What was used and what it costs; who pays, and how much he may."""

from __future__ import annotations

from collections.abc import Callable

import grpc.aio

from quickthaw.scheduler import auth
from quickthaw.scheduler.auth import tenant_in_question
from quickthaw.scheduler.budgeting import Budgeting
from quickthaw.scheduler.convert import accounts as convert_accounts
from quickthaw.scheduler.convert import billing as convert
from quickthaw.scheduler.convert.pages import page_size
from quickthaw.scheduler.convert.words import checked_text, invalid
from quickthaw.scheduler.core.accounts import SetLock
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.keys import Scope
from quickthaw.scheduler.store.queries import Period, ledger_page, usage
from quickthaw.scheduler.store.reader import Reader
from quickthaw.v1 import billing_pb2, billing_pb2_grpc
from quickthaw.wire import errors

Context = grpc.aio.ServicerContext[object, object]

NOTE_CHARS_MAX = 200
GRANT_ID_CHARS_MAX = 128
KEY_ID_CHARS_MAX = 32


class BillingServicer(billing_pb2_grpc.BillingServicer):
    def __init__(
        self, reader: Reader, budgeting: Budgeting, prices: Callable[[], PriceTable]
    ) -> None:
        """`prices` gives the table in force."""
        self._reader = reader
        self._budgeting = budgeting
        self._prices = prices

    # ---- what was spent ----------------------------------------------------------------------

    async def GetUsage(
        self, request: billing_pb2.GetUsageRequest, context: Context
    ) -> billing_pb2.GetUsageResponse:
        period = _period(request.tenant, request.from_unix_ms, request.until_unix_ms)
        by = convert_accounts.dimensions(request.by)
        lines, total = await self._reader.run(lambda connection: usage(connection, period, by))
        return billing_pb2.GetUsageResponse(
            tenant=period.tenant,
            lines=[convert.usage_line_message(line) for line in lines],
            total=convert.usage_line_message(total),
        )

    async def ListLedger(
        self, request: billing_pb2.ListLedgerRequest, context: Context
    ) -> billing_pb2.ListLedgerResponse:
        period = _period(request.tenant, request.from_unix_ms, request.until_unix_ms)
        request_id = checked_text("request_id", request.request_id, chars_max=64)
        after = convert.after_line(request.page.token)
        size = page_size(request.page)
        lines = await self._reader.run(
            lambda connection: ledger_page(
                connection, period, request_id=request_id, after=after, size=size
            )
        )
        return billing_pb2.ListLedgerResponse(
            lines=[convert.ledger_line_message(line) for line in lines],
            next_page_token=convert.ledger_token(lines[-1]) if len(lines) == size else "",
        )

    async def GetPrices(
        self, request: billing_pb2.GetPricesRequest, context: Context
    ) -> billing_pb2.GetPricesResponse:
        return convert.prices_message(self._prices())

    # ---- accounts ----------------------------------------------------------------------------

    async def GetAccount(
        self, request: billing_pb2.GetAccountRequest, context: Context
    ) -> billing_pb2.Account:
        tenant = tenant_in_question(checked_text("tenant", request.tenant, chars_max=64))
        now = await self._budgeting.account(tenant, _key_id(request.key_id))
        return convert_accounts.account_message(now)

    async def ListAccounts(
        self, request: billing_pb2.ListAccountsRequest, context: Context
    ) -> billing_pb2.ListAccountsResponse:
        found = self._budgeting.accounts(_whose(request.tenant, request.all))
        return billing_pb2.ListAccountsResponse(
            accounts=[convert_accounts.account_message(now) for now in found]
        )

    async def ListAlerts(
        self, request: billing_pb2.ListAlertsRequest, context: Context
    ) -> billing_pb2.ListAlertsResponse:
        found = await self._budgeting.alerts(_whose(request.tenant, request.all))
        return billing_pb2.ListAlertsResponse(
            alerts=[convert_accounts.alert_message(alert) for alert in found]
        )

    async def SetBudget(
        self, request: billing_pb2.SetBudgetRequest, context: Context
    ) -> billing_pb2.Account:
        budget = convert_accounts.budget(request)
        now = await self._budgeting.change(request.tenant, _key_id(request.key_id), budget)
        return convert_accounts.account_message(now)

    async def SetLock(
        self, request: billing_pb2.SetLockRequest, context: Context
    ) -> billing_pb2.Account:
        reason = checked_text("reason", request.reason, chars_max=NOTE_CHARS_MAX)
        lock = SetLock(request.locked, reason)
        now = await self._budgeting.change(request.tenant, _key_id(request.key_id), lock)
        return convert_accounts.account_message(now)

    async def GrantCredit(
        self, request: billing_pb2.GrantCreditRequest, context: Context
    ) -> billing_pb2.GrantCreditResponse:
        amount, most = request.amount_nanodollars, convert_accounts.MONEY_MAX_NANODOLLARS
        if not -most <= amount <= most:
            raise invalid("amount_nanodollars", f"must be from -{most} to {most}")
        now, grant_id, deduplicated = await self._budgeting.grant(
            request.tenant,
            _key_id(request.key_id),
            amount,
            checked_text("note", request.note, chars_max=NOTE_CHARS_MAX),
            checked_text("grant_id", request.grant_id, chars_max=GRANT_ID_CHARS_MAX),
        )
        return billing_pb2.GrantCreditResponse(
            account=convert_accounts.account_message(now),
            grant_id=grant_id,
            deduplicated=deduplicated,
        )


def _key_id(text: str) -> str:
    return checked_text("key_id", text, chars_max=KEY_ID_CHARS_MAX)


def _whose(tenant: str, everyone: bool) -> str:
    """Empty for all tenants. Raises PermissionDenied, InvalidArgument."""
    name = checked_text("tenant", tenant, chars_max=64)
    if not everyone:
        return tenant_in_question(name)
    if name:
        raise invalid("tenant", "must be empty where all are asked for")
    if not auth.caller().may(Scope.ADMIN):
        raise errors.PermissionDenied("reading all tenants' accounts needs the scope 'admin'")
    return ""


def _period(tenant: str, from_ms: int, until_ms: int) -> Period:
    if from_ms < 0 or until_ms < 0:
        raise invalid("from_unix_ms", "must not be negative")
    if until_ms and until_ms < from_ms:
        raise invalid("until_unix_ms", "must not be before from_unix_ms")
    name = checked_text("tenant", tenant, chars_max=64)
    return Period(tenant_in_question(name), from_ms, until_ms)
