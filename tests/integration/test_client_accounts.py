"""`accounts` of both clients, call by call, against a scripted platform."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quickthaw.client import Account, AsyncClient, BudgetSpan, Client
from quickthaw.v1 import billing_pb2
from quickthaw.wire.errors import InvalidArgument
from support.fake_platform import KEY, QUICK, FakePlatform

ACCOUNT = billing_pb2.Account(
    tenant="acme",
    credit_nanodollars=-5,
    budget_span=billing_pb2.BUDGET_SPAN_TOTAL,
    alert_percents=[50],
    spent_nanodollars=7,
)
CALLS = ["GetAccount", "ListAccounts", "SetBudget", "GrantCredit", "SetLock", "SetLock"]


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with FakePlatform() as made:
        made.scripts |= {
            "GetAccount": lambda _: ACCOUNT,
            "ListAccounts": lambda _: billing_pb2.ListAccountsResponse(accounts=[ACCOUNT]),
            "SetBudget": lambda _: ACCOUNT,
            "SetLock": lambda _: ACCOUNT,
            "GrantCredit": lambda message: billing_pb2.GrantCreditResponse(
                account=ACCOUNT, grant_id=message.grant_id
            ),
            "ListAlerts": lambda _: billing_pb2.ListAlertsResponse(
                alerts=[billing_pb2.Alert(tenant="acme", kind="credit", percent=50)]
            ),
        }
        yield made


def check(account: Account) -> None:
    """What is absent is None, and a debt is a number."""
    assert account.tenant == "acme"
    assert (account.budget_nanodollars, account.credit_nanodollars) == (None, -5)
    assert account.available_nanodollars is None
    assert account.budget_span is BudgetSpan.TOTAL
    assert account.alert_percents == (50,)


def test_the_blocking_client_has_every_call_on_accounts(platform: FakePlatform) -> None:
    with Client(platform.address, KEY, context=QUICK) as client:
        check(client.accounts.get())
        check(client.accounts.list(everyone=True)[0])
        check(client.accounts.set_budget("acme", "k", budget_nanodollars=None))
        assert client.accounts.grant("acme", amount_nanodollars=5).grant_id
        check(client.accounts.lock("acme", reason="x"))
        check(client.accounts.unlock("acme"))
        assert client.accounts.alerts()[0].kind == "credit"
        with pytest.raises(InvalidArgument, match="month or total"):
            client.accounts.set_budget("acme", budget_nanodollars=1, span=BudgetSpan.UNKNOWN)
    assert [each.method for each in platform.received] == [*CALLS, "ListAlerts"]


async def test_the_asyncio_client_has_them_too(platform: FakePlatform) -> None:
    async with AsyncClient(platform.address, KEY, context=QUICK) as client:
        check(await client.accounts.get())
        check((await client.accounts.list(everyone=True))[0])
        check(await client.accounts.set_budget("acme", "k", budget_nanodollars=None))
        assert (await client.accounts.grant("acme", amount_nanodollars=5)).grant_id
        check(await client.accounts.lock("acme", reason="x"))
        check(await client.accounts.unlock("acme"))
        assert (await client.accounts.alerts())[0].percent == 50
    assert [each.method for each in platform.received] == [*CALLS, "ListAlerts"]
    assert platform.calls("SetBudget")[0].key_id == "k"
