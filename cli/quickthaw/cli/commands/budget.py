"""`quickthaw budget ...`: who may spend how much."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import Account, Alert

app = typer.Typer()

NANODOLLARS = 10**9
AMOUNT_MAX = 10**9 * NANODOLLARS

AccountArgument = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="TENANT, or TENANT/KEY_ID for one of its keys.")
]
OwnAccountArgument = Annotated[
    str,
    typer.Argument(
        metavar="[ACCOUNT]", help="TENANT or TENANT/KEY_ID. Default: your own tenant's."
    ),
]


def parse_account(text: str) -> tuple[str, str]:
    """The tenant and the key's id, empty for the tenant's own account."""
    from quickthaw.cli.errors import UsageFault

    tenant, slash, key_id = text.partition("/")
    if (slash and not (tenant and key_id)) or "/" in key_id:
        raise UsageFault(f"{text!r} is no account", "write TENANT or TENANT/KEY_ID")
    return tenant, key_id


def parse_dollars(text: str, what: str) -> int:
    """`25`, `$0.50` or `-3.20` as nano-dollars, exactly."""
    from quickthaw.cli.errors import UsageFault

    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    try:
        amount = Decimal(digits.removeprefix("$").replace("_", "")) * NANODOLLARS
        if not 0 <= amount <= AMOUNT_MAX or amount != int(amount):
            raise InvalidOperation
    except InvalidOperation as error:
        raise UsageFault(
            f"{what} {text!r} is no amount of dollars",
            "write it as 25 or 0.50, to the billionth and up to a billion",
        ) from error
    return sign * int(amount)


@session_default(app)
def budget(session: Session) -> None:
    """What accounts may spend: list, show, set, credit, lock, unlock, alerts. Without a command:
    all accounts of your tenant.

    An account is a tenant or one of its keys. A key spends within its own limits and its tenant's.

    ```
    quickthaw budget set acme 500 --alert 80 --alert 100     # dollars a month
    quickthaw budget set acme/3kq2m1p0x9ab 50                # one key of it
    quickthaw budget credit acme 25 --note "first month"     # prepaid from now on
    quickthaw budget show acme
    ```
    """
    list_accounts(session)


@session_command(app, "list")
def list_accounts(
    session: Session,
    tenant: Annotated[str, typer.Option(help="Another tenant's; needs an admin key.")] = "",
    everyone: Annotated[
        bool, typer.Option("--all", help="Of all tenants; needs an admin key.")
    ] = False,
) -> None:
    """The accounts that ever spent something or have a limit."""
    with session.client() as client:
        found = client.accounts.list(tenant, everyone=everyone)

    def render(console: Console) -> None:
        from quickthaw.cli.render import listing, table

        rows = [
            (
                _name(each),
                _amount(each.budget_nanodollars),
                each.budget_span if each.budget_nanodollars is not None else "",
                _amount(each.budget_used_nanodollars),
                _amount(each.credit_nanodollars),
                _amount(each.held_nanodollars),
                _amount(each.available_nanodollars, "any"),
                "locked" if each.locked else "",
            )
            for each in found
        ]
        headings = ("account", "budget", "per", "used", "credit", "held", "available", "")
        nothing = "nothing was spent and no limit is set; `quickthaw budget set` sets one"
        listing(console, table(headings, rows, "budget used credit held available"), nothing)

    session.out.show(found, render)


@session_command(app, "show")
def show(session: Session, account: OwnAccountArgument = "") -> None:
    """One account, and the thresholds that it crossed."""
    tenant, key_id = parse_account(account)
    with session.client() as client:
        found = client.accounts.get(tenant, key_id)
        alerts = [
            each
            for each in client.accounts.alerts(tenant)
            if (each.tenant, each.key_id) == (found.tenant, found.key_id)
        ]
    session.out.show(
        {"account": found, "alerts": alerts}, lambda console: _render(console, found, alerts)
    )


@session_command(app, "set")
def set_(
    session: Session,
    account: AccountArgument,
    dollars: Annotated[
        str, typer.Argument(metavar="DOLLARS", help="The cap; `none` to have no budget.")
    ],
    total: Annotated[
        bool, typer.Option("--total", help="Cap all that was ever spent, not each month (UTC).")
    ] = False,
    alert: Annotated[
        list[int] | None,
        typer.Option(
            "--alert", metavar="PERCENT", help="Tell when so much is used; may be repeated."
        ),
    ] = None,
) -> None:
    """Set an account's budget and thresholds, in place of what there was. Needs an admin key.

    It holds at once: requests that do not fit are refused, and what runs is stopped at the cap with
    BUDGET_EXHAUSTED and billed for what ran.

    ```
    quickthaw budget set acme 500 --alert 50 --alert 90
    quickthaw budget set acme none
    ```
    """
    from quickthaw.client import BudgetSpan

    tenant, key_id = parse_account(account)
    amount = None if dollars.lower() == "none" else parse_dollars(dollars, "DOLLARS")
    with session.client() as client:
        found = client.accounts.set_budget(
            tenant,
            key_id,
            budget_nanodollars=amount,
            span=BudgetSpan.TOTAL if total else BudgetSpan.MONTH,
            alert_percents=alert or (),
        )
    session.out.show(found, lambda console: _render(console, found, ()))


@session_command(app, "credit")
def credit(
    session: Session,
    account: AccountArgument,
    dollars: Annotated[
        str, typer.Argument(metavar="DOLLARS", help="How much to add; below 0 after `--`.")
    ],
    note: Annotated[str, typer.Option(help="What it is for.", show_default=False)] = "",
    grant_id: Annotated[
        str,
        typer.Option(
            "--id",
            help="Your name for this grant, such as an invoice's: given once however often.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Give an account credit. The first makes it prepaid: it spends no more than its credit.

    Needs an admin key.

    ```
    quickthaw budget credit acme 25 --id invoice-1043
    quickthaw budget credit acme -- -5      # take some back
    ```
    """
    tenant, key_id = parse_account(account)
    amount = parse_dollars(dollars, "DOLLARS")
    with session.client() as client:
        granted = client.accounts.grant(
            tenant, key_id, amount_nanodollars=amount, note=note, grant_id=grant_id
        )

    def render(console: Console) -> None:
        if granted.deduplicated:
            console.print(f"{granted.grant_id} was given before; nothing changed")
        _render(console, granted.account, ())

    session.out.show(granted, render)


@session_command(app, "lock")
def lock(
    session: Session,
    account: AccountArgument,
    reason: Annotated[str, typer.Option(help="Told to who is refused.", show_default=False)] = "",
) -> None:
    """Let an account start nothing more; what runs ends. Needs an admin key."""
    tenant, key_id = parse_account(account)
    with session.client() as client:
        found = client.accounts.lock(tenant, key_id, reason=reason)
    session.out.show(found, lambda console: console.print(f"{_name(found)} is locked"))


@session_command(app, "unlock")
def unlock(session: Session, account: AccountArgument) -> None:
    """Let a locked account go on; what it had waiting starts. Needs an admin key."""
    tenant, key_id = parse_account(account)
    with session.client() as client:
        found = client.accounts.unlock(tenant, key_id)
    session.out.show(found, lambda console: console.print(f"{_name(found)} is unlocked"))


@session_command(app, "alerts")
def alerts(
    session: Session,
    tenant: Annotated[str, typer.Option(help="Another tenant's; needs an admin key.")] = "",
    everyone: Annotated[
        bool, typer.Option("--all", help="Of all tenants; needs an admin key.")
    ] = False,
) -> None:
    """Thresholds that were crossed, newest first."""
    with session.client() as client:
        found = client.accounts.alerts(tenant, everyone=everyone)
    session.out.show(found, lambda console: _render_alerts(console, found))


# ---- rendering -------------------------------------------------------------------------------


def _name(account: Account | Alert) -> str:
    return f"{account.tenant}/{account.key_id}" if account.key_id else account.tenant


def _amount(nanodollars: int | None, nothing: str = "") -> str:
    from quickthaw.cli.render import money

    return nothing if nanodollars is None else money(nanodollars)


def _render(console: Console, account: Account, alerts: Sequence[Alert]) -> None:
    from quickthaw.cli.render import literal, pairs

    per = f"a month, {account.month}" if account.budget_span == "month" else "in all"
    budget = "none"
    if account.budget_nanodollars is not None:
        used = _amount(account.budget_used_nanodollars)
        budget = f"{_amount(account.budget_nanodollars)} {per}; {used} used"
    told = ", ".join(f"{percent} %" for percent in account.alert_percents)
    locked = f"yes: {literal(account.lock_reason)}" if account.lock_reason else "yes"
    pairs(
        console,
        (
            ("account", _name(account)),
            ("budget", budget),
            ("credit", _amount(account.credit_nanodollars, "not prepaid")),
            ("held", f"{_amount(account.held_nanodollars)} for open requests"),
            ("available", _amount(account.available_nanodollars, "no bound")),
            ("spent", f"{_amount(account.spent_nanodollars)} ever"),
            ("alerts at", told or "none"),
            ("locked", locked if account.locked else "no"),
        ),
    )
    if alerts:
        _render_alerts(console, alerts)


def _render_alerts(console: Console, alerts: Sequence[Alert]) -> None:
    from quickthaw.cli.render import clock, listing, table

    rows = [
        (
            clock(each.raised_unix_ms),
            _name(each),
            f"{each.percent} % of {each.kind}",
            _amount(each.used_nanodollars),
            _amount(each.limit_nanodollars),
        )
        for each in alerts
    ]
    headings = ("when", "account", "threshold", "used", "of")
    listing(console, table(headings, rows, "used of"), "no threshold was crossed yet")
