"""A simulation's figures in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quickthaw.scheduler.core.model import Tier
from quickthaw.scheduler.simulate.calibration import ASSUMPTION, Fleet
from quickthaw.scheduler.simulate.kinds import GIB
from quickthaw.scheduler.simulate.outcome import Figures
from quickthaw.scheduler.simulate.study import OURS, Sized


class Column(NamedTuple):
    heading: str
    name: str
    form: str
    lowest_best: bool = True


COLUMNS: Sequence[Column] = (
    Column("p50 s", "p50_seconds", ".1f"),
    Column("p95 s", "p95_seconds", ".1f"),
    Column("p99 s", "p99_seconds", ".1f"),
    Column("$ / 1000", "dollars_per_1000", ".2f"),
    Column("cold", "cold_share", ".1%"),
    Column("remote", "remote_share", ".1%"),
    Column("unfair", "fairness_error", ".2f"),
    Column("evictions", "evictions", "d"),
    Column("busy", "busy_share", ".1%", False),
    Column("lost", "lost_attempts", "d", False),
    Column("refused", "refused", "d", False),
)
CHARTED = tuple(column for column in COLUMNS if column.lowest_best)
_BAR_CELLS = 42
_EIGHTHS = " ▏▎▍▌▋▊▉"


def comparison(title: str, rows: Mapping[str, Figures]) -> Table:
    """A line a policy; the lowest of each figure that should be low is bold, ours is green."""
    shown = _table(title)
    shown.add_column("policy", no_wrap=True)
    used = [column for column in COLUMNS if column.lowest_best or _any(rows, column)]
    for column in used:
        shown.add_column(column.heading, justify="right", no_wrap=True)
    best = {c.name: min(_value(each, c) for each in rows.values()) for c in used if c.lowest_best}
    for policy, figures in rows.items():
        cells = []
        for column in used:
            value = _value(figures, column)
            text = Text(format(value, column.form))
            if len(rows) > 1 and best.get(column.name) == value:
                text.stylize("bold")
            cells.append(text)
        shown.add_row(Text(policy), *cells, style="green" if policy == OURS else None)
    return shown


def ablation(title: str, rows: Mapping[str, Figures]) -> Table:
    """What is lost without each part: the change of each figure against the whole."""
    whole = rows[OURS]
    shown = _table(title)
    shown.add_column("without", no_wrap=True)
    for column in CHARTED:
        shown.add_column(column.heading, justify="right", no_wrap=True)
    shown.add_row("nothing", *(format(_value(whole, c), c.form) for c in CHARTED), style="green")
    for name, figures in rows.items():
        if name == OURS:
            continue
        cells = []
        for column in CHARTED:
            before, after = _value(whole, column), _value(figures, column)
            change = (after - before) / before if before else 0.0
            style = "red" if change > 0.02 else "green" if change < -0.02 else "dim"
            cells.append(Text(f"{change:+.0%}" if before else "", style=style))
        shown.add_row(Text(name), *cells)
    return shown


def charts(console: Console, rows: Mapping[str, Figures]) -> None:
    """A bar for each policy, a block for each figure."""
    widest = max(len(policy) for policy in rows)
    for column in CHARTED:
        if not _any(rows, column):
            continue
        highest = max(_value(each, column) for each in rows.values())
        console.print(f"\n[bold]{column.heading}[/bold]")
        for policy, figures in rows.items():
            value = _value(figures, column)
            style = "green" if policy == OURS else "bright_black"
            line = Text(f"{policy:<{widest}}  ")
            line.append(_bar(value / highest), style=style)
            line.append(f" {format(value, column.form)}")
            console.print(line)


def sizes(title: str, found: Sequence[Sized]) -> Table:
    """The cheapest fleet that keeps the promise is green."""
    shown = _table(title)
    for heading in ("GPU", "how many", "$ an hour", "$ a month", "p50 s", "p99 s", "cold", "busy"):
        shown.add_column(heading, justify="left" if heading == "GPU" else "right", no_wrap=True)
    hourly = [each.dollars_per_hour for each in found if each.dollars_per_hour is not None]
    cheapest = min(hourly, default=math.inf)
    for each in found:
        figures, cost = each.figures, each.dollars_per_hour
        if figures is None:
            shown.add_row(each.kind.gpu_type, "too small", style="dim")
            continue
        shown.add_row(
            each.kind.gpu_type,
            f"{each.workers:,}" if each.workers else "not enough",
            f"{cost:,.2f}" if cost is not None else "",
            f"{cost * 730:,.0f}" if cost is not None else "",
            f"{figures.p50_seconds:.1f}",
            f"{figures.p99_seconds:.1f}",
            f"{figures.cold_share:.0%}",
            f"{figures.busy_share:.0%}",
            style="green" if cost == cheapest else None if each.workers else "dim",
        )
    return shown


def gpus(fleet: Fleet, gpu_types: Sequence[str]) -> Table:
    """What the workers are taken to be; numbers that were measured are bold."""
    shown = _table("Workers (bold: measured here; else assumed, of the size that vendors state)")
    headings = ("GPU", "VRAM", "pinned", "$ / h", "speed", "pinned →", "disk →", "remote →")
    for heading in headings:
        shown.add_column(heading, justify="left" if heading == "GPU" else "right", no_wrap=True)
    for name in gpu_types:
        kind = fleet.kinds[name]

        def cell(text: str, what: str, name: str = name) -> Text:
            measured = fleet.source(name, what) != ASSUMPTION
            return Text(text, style="bold" if measured else "")

        speeds = [
            cell(f"{kind.tiers[tier].bytes_per_second / 1e9:.1f} GB/s", tier.name.lower())
            for tier in (Tier.PINNED, Tier.DISK, Tier.REMOTE)
        ]
        shown.add_row(
            name,
            cell(f"{kind.vram_bytes / GIB:.0f} GiB", "memory"),
            cell(f"{kind.pinned_bytes / GIB:.0f} GiB", "memory"),
            cell(f"{kind.rate_nanodollars_per_second * 3600 / 1e9:.2f}", "price"),
            cell(f"{kind.speed:.2f}", "speed"),
            *speeds,
        )
    return shown


def sources(fleet: Fleet, gpu_types: Sequence[str]) -> list[str]:
    """One line for each number that was measured: which, and where it comes from."""
    return [
        f"{gpu_type}, {what}: {source}"
        for (gpu_type, what), source in fleet.sources.items()
        if gpu_type in gpu_types
    ]


def _value(figures: Figures, column: Column) -> float:
    value: float = getattr(figures, column.name)
    return value


def _any(rows: Mapping[str, Figures], column: Column) -> bool:
    return any(_value(each, column) for each in rows.values())


def _bar(share: float) -> str:
    eighths = round(share * _BAR_CELLS * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
