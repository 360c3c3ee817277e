"""`quickthaw usage` and `quickthaw prices`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import PriceTable, Usage

app = typer.Typer()

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
    "key_id",
    "unit",
    "micro_units",
    "unit_price_nanodollars",
)
SUM_COLUMNS = ("requests", "attempts", "metered_ms", "billed_ms", "price_nanodollars")
DIMENSIONS = {"model": "model", "gpu": "gpu_type", "key": "key_id", "day": "day"}
"""The words of `--by`, with the fields that they fill."""
_WORDS = {"model": "model", "gpu": "gpu_type", "key": "key", "day": "day"}


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
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="WHAT",
            help="Tell lines apart by model, gpu, key or day (UTC); may be repeated. "
            "Default: model and gpu.",
        ),
    ] = None,
    csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="CSV: the sums that --by asks for; without it the line items, one for each "
            "finished attempt.",
        ),
    ] = False,
) -> None:
    """What was used and what it cost.

    ```
    quickthaw usage --from 2026-11-01
    quickthaw usage --by day --by key
    quickthaw usage --csv > november.csv
    ```
    """
    from quickthaw.cli.errors import UsageFault
    from quickthaw.client import Period, UsageDimension

    if csv and session.out.as_json:
        raise UsageFault("--csv and --json: choose one")
    period = Period(tenant, parse_time(since, "--from"), parse_time(until, "--until"))
    if period.until_unix_ms and period.until_unix_ms < period.from_unix_ms:
        raise UsageFault(f"--until {until} lies before --from {since}")
    names = _dimensions(by or ())
    with session.client() as client:
        if tenant:
            # A name that is mistyped must not look like a tenant that owes nothing.
            client.accounts.get(tenant)
        if csv and not by:
            _write_csv(LEDGER_COLUMNS, client.ledger(period))
            return
        found = client.usage(period, by=[UsageDimension(_WORDS[name]) for name in names])
    fields = [DIMENSIONS[name] for name in names]
    if csv:
        _write_csv((*fields, *SUM_COLUMNS), found.lines)
        return
    session.out.show(found, lambda console: _render_usage(console, found, names))


def _dimensions(words: Iterable[str]) -> tuple[str, ...]:
    from quickthaw.cli.errors import UsageFault

    names = tuple(dict.fromkeys(word.lower() for word in words)) or ("model", "gpu")
    for name in names:
        if name not in DIMENSIONS:
            raise UsageFault(
                f"--by {name!r} is nothing to tell apart by", f"choose from {', '.join(DIMENSIONS)}"
            )
    return names


def _write_csv(columns: Sequence[str], lines: Iterable[object]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow([getattr(line, name) for name in columns])


def _render_usage(console: Console, found: Usage, names: Sequence[str]) -> None:
    from quickthaw.cli.render import money, span, table

    rows: list[Sequence[object]] = [
        (
            *(getattr(each, DIMENSIONS[name]) for name in names),
            each.requests,
            each.attempts,
            span(each.metered_ms),
            span(each.billed_ms),
            money(each.price_nanodollars),
        )
        for each in (*found.lines, found.total)
    ]
    blank = [""] * (len(names) - 1)
    sums = rows[-1][len(names) :]
    rows[-1] = ("[bold]total[/bold]", *blank, *sums[:-1], f"[bold]{sums[-1]}[/bold]")
    headings = (*names, "requests", "attempts", "metered", "billed", "price")
    console.print(f"[dim]tenant {found.tenant}[/dim]")
    console.print(table(headings, rows, "requests attempts metered billed price"))


@session_command(app, "prices")
def prices(session: Session) -> None:
    """The price table in force: by kind of GPU, and of models with a price of their own.

    Charged are the seconds of a run; waiting, loading and failures that are ours are free.
    """
    with session.client() as client:
        found = client.prices()
    session.out.show(found, lambda console: _render_prices(console, found))


def _render_prices(console: Console, found: PriceTable) -> None:
    from quickthaw.cli.render import literal, table

    console.print(f"[dim]version {found.version}[/dim]")
    rows = [(each.gpu_type, *_rates(each.rate_nanodollars_per_second)) for each in found.prices]
    console.print(table(("gpu", "second", "hour"), rows, "second hour"))
    own: list[Sequence[object]] = []
    for model in found.models:
        name = literal(model.model)
        if model.unit:
            own.append((name, "", f"{_money(model.unit_price_nanodollars)}/{model.unit}", ""))
        if model.rate_nanodollars_per_second is not None:
            own.append((name, "any", *_rates(model.rate_nanodollars_per_second)))
        own += [
            (name, each.gpu_type, *_rates(each.rate_nanodollars_per_second)) for each in model.rates
        ]
    if own:
        console.print(table(("model", "gpu", "price", "hour"), own, "price hour"))
    if found.dedicated:
        rows = [(p.gpu_type, *_rates(p.rate_nanodollars_per_second)) for p in found.dedicated]
        console.print(table(("reserved gpu", "second", "hour"), rows, "second hour"))


def _money(nanodollars: int) -> str:
    from quickthaw.cli.render import money

    return money(nanodollars)


def _rates(nanodollars_per_second: int) -> tuple[str, str]:
    return f"{_money(nanodollars_per_second)}/s", f"{_money(nanodollars_per_second * 3600)}/h"
