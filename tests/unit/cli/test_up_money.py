"""How `up` tells its scheduler about money."""

from __future__ import annotations

from pathlib import Path

import pytest

from quickthaw.cli.commands.budget import parse_account, parse_dollars
from quickthaw.cli.errors import UsageFault
from quickthaw.cli.up import parts
from quickthaw.cli.up.settings import UpSettings
from quickthaw.scheduler.settings import parse_settings
from quickthaw.wire.process import Address


def arguments(tmp_path: Path, credit_nanodollars: int) -> tuple[str, ...]:
    anywhere = Address("127.0.0.1", 0)
    settings = UpSettings(
        tmp_path, anywhere, anywhere, anywhere, new_tenant_credit_nanodollars=credit_nanodollars
    )
    return parts.scheduler(settings, "127.0.0.1:0", "127.0.0.1:0").arguments


def test_a_new_tenants_credit_reaches_the_scheduler(tmp_path: Path) -> None:
    parsed = parse_settings(arguments(tmp_path, 5 * 10**9)[1:], {})
    assert parsed.limits.new_tenant_credit_nanodollars == 5 * 10**9
    assert parse_settings(arguments(tmp_path, 0)[1:], {}).limits.new_tenant_credit_nanodollars == 0


@pytest.mark.parametrize(
    ("text", "nanodollars"),
    [("25", 25 * 10**9), ("$0.50", 5 * 10**8), ("-3.2", -32 * 10**8), ("1_000", 10**12), ("0", 0)],
)
def test_dollars_are_exact(text: str, nanodollars: int) -> None:
    assert parse_dollars(text, "DOLLARS") == nanodollars


@pytest.mark.parametrize("text", ["", "-", "--5", "1e400", "nan", "inf", "five", "0.0000000005"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageFault, match="no amount of dollars"):
        parse_dollars(text, "DOLLARS")


@pytest.mark.parametrize("text", ["/", "a/", "/k", "a/b/c"])
def test_what_is_no_account_is_refused(text: str) -> None:
    with pytest.raises(UsageFault, match="no account"):
        parse_account(text)
