"""`quickthaw usage`, `quickthaw prices` and `quickthaw keys ...`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command, session_default

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import Key, Usage

app = typer.Typer()
keys_app = typer.Typer()

LEDGER_COLUMNS = (
    "closed_unix_ms",
    "attempt_id",
    "request_id",
    "tenant",
    "model",
    "worker_id",
    "gpu_type",
    "attempt",
    "outcome",
    "metered_ms",
    "billed_ms",
    "rate_nanodollars_per_second",
    "price_nanodollars",
    "price_version",
    "waiver",
)


def parse_time(text: str | None, option: str) -> int:
    """ISO 8601, local unless it says otherwise, as milliseconds since 1970; 0 for None."""
    if text is None:
        return 0
    from quickthaw.cli.errors import UsageFault

    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise UsageFault(
            f"{option} {text!r} is no time", "write 2026-11-01 or 2026-11-01T12:00:00+00:00"
        ) from error


@session_command(app, "usage")
def usage(
    session: Session,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Inclusive; 2026-11-01 or with a time."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Exclusive. Default: now.")
    ] = None,
    tenant: Annotated[
        str, typer.Option(help="Another tenant's; needs an admin key.", show_default=False)
    ] = "",
    csv: Annotated[
        bool, typer.Option("--csv", help="The ledger as CSV: one line for each finished attempt.")
    ] = False,
) -> None:
    """What was used and what it cost, by model and kind of GPU.

    ```
    quickthaw usage --from 2026-11-01
    quickthaw usage --csv > november.csv
    ```
    """
    from quickthaw.client import Period

    period = Period(tenant, parse_time(since, "--from"), parse_time(until, "--until"))
    with session.client() as client:
        if csv:
            _write_csv(client.ledger(period))
            return
        found = client.usage(period)
    session.out.show(found, lambda console: _render_usage(console, found))


def _write_csv(lines: Iterable[object]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(LEDGER_COLUMNS)
    for line in lines:
        writer.writerow([getattr(line, name) for name in LEDGER_COLUMNS])


def _render_usage(console: Console, found: Usage) -> None:
    from quickthaw.cli.render import money, span, table

    rows: list[Sequence[object]] = [
        (
            each.model,
            each.gpu_type,
            each.requests,
            each.attempts,
            span(each.metered_ms),
            span(each.billed_ms),
            money(each.price_nanodollars),
        )
        for each in (*found.lines, found.total)
    ]
    rows[-1] = ("[bold]total[/bold]", "", *rows[-1][2:6], f"[bold]{rows[-1][6]}[/bold]")
    headings = ("model", "gpu", "requests", "attempts", "metered", "billed", "price")
    console.print(f"[dim]tenant {found.tenant}[/dim]")
    console.print(table(headings, rows, "requests attempts metered billed price"))


@session_command(app, "prices")
def prices(session: Session) -> None:
    """The price table in force, by kind of GPU."""
    with session.client() as client:
        found = client.prices()

    def render(console: Console) -> None:
        from quickthaw.cli.render import money, table

        rows = [
            (
                each.gpu_type,
                f"{money(each.rate_nanodollars_per_second)}/s",
                f"{money(each.rate_nanodollars_per_second * 3600)}/h",
            )
            for each in found.prices
        ]
        console.print(f"[dim]version {found.version}[/dim]")
        console.print(table(("gpu", "second", "hour"), rows, "second hour"))

    session.out.show(found, render)


@session_default(keys_app)
def keys(session: Session) -> None:
    """Tenants' keys: list, create, revoke. Without a command: list. Needs an admin key."""
    list_keys(session)


@session_command(keys_app, "list")
def list_keys(
    session: Session,
    tenant: Annotated[str, typer.Option(help="Only of this tenant.", show_default=False)] = "",
) -> None:
    """Every key; never a secret."""
    with session.client() as client:
        found = client.keys.list(tenant)

    def render(console: Console) -> None:
        from quickthaw.cli.render import clock, table

        rows = [
            (
                each.key_id,
                each.tenant,
                ", ".join(each.scopes),
                each.label,
                clock(each.created_unix_ms),
                _validity(each),
            )
            for each in found
        ]
        console.print(table(("key", "tenant", "scopes", "label", "created", ""), rows))

    session.out.show(found, render)


def _validity(key: Key) -> str:
    from quickthaw.cli.render import clock

    if key.revoked_unix_ms:
        return f"revoked {clock(key.revoked_unix_ms)}"
    return f"until {clock(key.expires_unix_ms)}" if key.expires_unix_ms else ""


@session_command(keys_app, "create")
def create(
    session: Session,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Made if it is new.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="call (default), admin or worker; may be repeated."),
    ] = None,
    label: Annotated[str, typer.Option(help="What it is for.", show_default=False)] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends to be valid. Default: never.")
    ] = None,
) -> None:
    """Make a key. Its secret is printed once and cannot be read again.

    ```
    export QUICKTHAW_KEY=$(quickthaw keys create my-team --label notebooks)
    ```
    """
    from quickthaw.cli.errors import UsageFault
    from quickthaw.client import Scope

    try:
        scopes = [Scope(name.lower()) for name in scope or ("call",)]
    except ValueError as error:
        raise UsageFault(f"--scope: {error}", "choose from call, admin, worker") from error
    with session.client() as client:
        made = client.keys.create(
            tenant, scopes, label=label, expires_unix_ms=parse_time(expires, "--expires")
        )
    session.out.show(made, lambda console: console.print(made.secret, markup=False))


def _key_id(text: str) -> str:
    """Of `qt_ID_SECRET` only the id: a secret that leaked need not travel again."""
    prefix, separator, rest = text.partition("_")
    return rest.split("_", 1)[0] if separator and prefix == "qt" else text


@session_command(keys_app, "revoke")
def revoke(
    session: Session,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key's id, or the leaked key.")],
) -> None:
    """End a key's validity at once."""
    with session.client() as client:
        revoked = client.keys.revoke(_key_id(key))
    session.out.show(revoked, lambda console: console.print(f"{revoked.key_id} is revoked"))
