"""`quickthaw budget`, `usage --by` and `prices` against a scripted platform."""

from __future__ import annotations

import csv
import io

import pytest

from quickthaw.v1 import billing_pb2
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform

KEY_ID = "3kq2m1p0x9ab"


def an_account(**fields: object) -> billing_pb2.Account:
    values: dict[str, object] = {
        "tenant": "acme",
        "budget_nanodollars": 500 * 10**9,
        "budget_span": billing_pb2.BUDGET_SPAN_MONTH,
        "budget_used_nanodollars": 12_345_678_901,
        "alert_percents": [80, 100],
        "month": "2026-11",
        "held_nanodollars": 2 * 10**9,
        "available_nanodollars": 485 * 10**9,
        **fields,
    }
    return billing_pb2.Account(**values)  # type: ignore[arg-type] # by name


ALERT = billing_pb2.Alert(
    tenant="acme",
    kind="budget",
    percent=80,
    used_nanodollars=400 * 10**9,
    limit_nanodollars=500 * 10**9,
    raised_unix_ms=1_796_000_000_000,
)


@pytest.fixture
def scripted(platform: FakePlatform) -> FakePlatform:
    platform.scripts |= {
        "GetAccount": lambda _: an_account(),
        "ListAccounts": lambda _: billing_pb2.ListAccountsResponse(
            accounts=[an_account(), an_account(key_id=KEY_ID, locked=True)]
        ),
        "SetBudget": lambda _: an_account(),
        "SetLock": lambda message: an_account(
            key_id=message.key_id, locked=message.locked, lock_reason=message.reason
        ),
        "GrantCredit": lambda message: billing_pb2.GrantCreditResponse(
            account=an_account(credit_nanodollars=message.amount_nanodollars),
            grant_id=message.grant_id,
            deduplicated=message.grant_id == "again",
        ),
        "ListAlerts": lambda _: billing_pb2.ListAlertsResponse(alerts=[ALERT]),
    }
    return platform


def test_budget_shows_an_account_to_the_nano_dollar(
    quickthaw: Quickthaw, scripted: FakePlatform
) -> None:
    out = quickthaw("budget", "show", "acme").out
    for told in ("$500.00 a month, 2026-11; $12.345678901 used", "not prepaid", "$485.00", "80 %"):
        assert told in out
    assert "$400.00" in out, "the threshold that was crossed"
    shown = quickthaw("budget", "show", f"acme/{KEY_ID}", "--json").json
    assert shown["account"]["budget_used_nanodollars"] == 12_345_678_901
    assert scripted.calls("GetAccount")[-1].key_id == KEY_ID


def test_budget_alone_lists_the_accounts(quickthaw: Quickthaw, scripted: FakePlatform) -> None:
    out = quickthaw("budget").out
    assert f"acme/{KEY_ID}" in out
    assert "locked" in out
    assert not scripted.calls("ListAccounts")[0].all
    quickthaw("budget", "list", "--all")
    assert scripted.calls("ListAccounts")[1].all
    assert "80 % of budget" in quickthaw("budget", "alerts").out


@pytest.mark.parametrize(
    ("arguments", "nanodollars", "span", "percents"),
    [
        (["acme", "500"], 500 * 10**9, billing_pb2.BUDGET_SPAN_MONTH, []),
        (["acme", "$0.000000001", "--total"], 1, billing_pb2.BUDGET_SPAN_TOTAL, []),
        (["acme", "none"], None, billing_pb2.BUDGET_SPAN_MONTH, []),
        (["acme", "0", "--alert", "80", "--alert", "100"], 0, 1, [80, 100]),
    ],
)
def test_a_budget_is_set_in_dollars(
    quickthaw: Quickthaw,
    scripted: FakePlatform,
    arguments: list[str],
    nanodollars: int | None,
    span: int,
    percents: list[int],
) -> None:
    assert quickthaw("budget", "set", *arguments).status == 0
    asked = scripted.calls("SetBudget")[0]
    assert asked.HasField("budget_nanodollars") == (nanodollars is not None)
    assert asked.budget_nanodollars == (nanodollars or 0)
    assert (asked.budget_span, list(asked.alert_percents)) == (span, percents)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["set", "acme", "much"], "no amount of dollars"),
        (["set", "acme", "0.0000000001"], "no amount of dollars"),
        (["set", "acme/", "5"], "TENANT or TENANT/KEY_ID"),
        (["show", "a/b/c"], "TENANT or TENANT/KEY_ID"),
    ],
)
def test_what_is_no_amount_or_account_is_told_with_what_to_write(
    quickthaw: Quickthaw, scripted: FakePlatform, arguments: list[str], told: str
) -> None:
    said = quickthaw("budget", *arguments)
    assert said.status == 2
    assert told in said.err
    assert scripted.calls("SetBudget") == []


def test_credit_is_given_under_a_name_of_its_own_and_taken_back(
    quickthaw: Quickthaw, scripted: FakePlatform
) -> None:
    quickthaw("budget", "credit", "acme", "25")
    quickthaw("budget", "credit", "acme", "--note", "oops", "--", "-5.5")
    out = quickthaw("budget", "credit", "acme", "1", "--id", "again").out
    first, second, third = scripted.calls("GrantCredit")
    assert first.grant_id.startswith("grant_"), "so that trying again gives once"
    assert first.grant_id != second.grant_id
    assert (second.amount_nanodollars, second.note) == (-5_500_000_000, "oops")
    assert third.grant_id == "again"
    assert "was given before" in out


def test_an_account_is_locked_and_unlocked(quickthaw: Quickthaw, scripted: FakePlatform) -> None:
    assert "is locked" in quickthaw("budget", "lock", "acme", "--reason", "unpaid").out
    assert "is unlocked" in quickthaw("budget", "unlock", f"acme/{KEY_ID}").out
    lock, unlock = scripted.calls("SetLock")
    assert (lock.locked, lock.reason, lock.key_id) == (True, "unpaid", "")
    assert (unlock.locked, unlock.key_id) == (False, KEY_ID)


def test_usage_is_told_apart_as_asked_in_a_table_and_as_csv(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    line = billing_pb2.UsageLine(key_id="k1", day="2026-11-23", requests=2, price_nanodollars=30)
    platform.scripts["GetUsage"] = lambda _: billing_pb2.GetUsageResponse(
        tenant="t", lines=[line], total=line
    )
    out = quickthaw("usage", "--by", "day", "--by", "key").out
    assert "2026-11-23" in out
    assert "model" not in out
    asked = platform.calls("GetUsage")[0]
    assert list(asked.by) == [billing_pb2.USAGE_DIMENSION_DAY, billing_pb2.USAGE_DIMENSION_KEY]
    text = quickthaw("usage", "--by", "day", "--csv").out
    [row] = csv.DictReader(io.StringIO(text))
    assert (row["day"], row["price_nanodollars"]) == ("2026-11-23", "30")
    wrong = quickthaw("usage", "--by", "colour")
    assert (wrong.status, "model, gpu, key, day" in wrong.err) == (2, True)


def test_prices_name_models_and_reserved_workers(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    price = billing_pb2.Price(gpu_type="l4", rate_nanodollars_per_second=222_000)
    platform.scripts["GetPrices"] = lambda _: billing_pb2.GetPricesResponse(
        version="v1",
        prices=[price],
        models=[
            billing_pb2.ModelPrice(model="a/sold", unit="image", unit_price_nanodollars=3_000_000),
            billing_pb2.ModelPrice(model="a/timed", rate_nanodollars_per_second=0, rates=[price]),
        ],
        dedicated=[price],
    )
    out = quickthaw("prices").out
    for told in ("$0.003/image", "a/timed", "$0.7992/h", "reserved gpu", "$0.00/s"):
        assert told in out
    [sold, timed] = quickthaw("prices", "--json").json["models"]
    assert (sold["rate_nanodollars_per_second"], timed["rate_nanodollars_per_second"]) == (None, 0)
