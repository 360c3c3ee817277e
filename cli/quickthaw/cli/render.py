"""Values as a person reads them: money, spans, sizes, times, receipts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from quickthaw.client import ComponentLoad, LoadReport, Receipt, Request, RequestState, Tier

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STATE_STYLES = {
    RequestState.SUCCEEDED: "green",
    RequestState.FAILED: "red",
    RequestState.CANCELLED: "yellow",
    RequestState.RUNNING: "cyan",
    RequestState.LOADING: "cyan",
}

_IN_ONE_PIECE = frozenset({"request", "worker", "key", "state", "load", "price", "rate"})
"""Headings of what people copy from a table: a narrow terminal folds other columns first."""

FOLD_COLUMNS_MIN = 11
"""No column is folded to fewer."""


def money(nanodollars: float) -> str:
    """Exact to the nano-dollar, with at least cents: `$0.000617`."""
    whole, part = divmod(abs(round(nanodollars)), 10**9)
    digits = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanodollars < 0 else ''}${whole:,}.{digits}"


def span(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 120_000:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(milliseconds / 1000, 60)
    return f"{minutes:.0f} min {seconds:.0f} s"


def seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 0.01 else span(value * 1000)


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def clock(unix_ms: int) -> str:
    """Local time of day; empty for 0, which means never."""
    return datetime.fromtimestamp(unix_ms / 1000).strftime("%Y-%m-%d %H:%M:%S") if unix_ms else ""


def state(value: RequestState) -> str:
    style = _STATE_STYLES.get(value)
    return f"[{style}]{value}[/{style}]" if style else str(value)


def literal(text: object) -> str:
    """A stranger's text, to be shown as it is: without it, `[red]` in a title would be obeyed."""
    from rich.markup import escape

    shown = str(text)
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in shown)
    return escape(shown)


def table(headings: Iterable[str], rows: Iterable[Sequence[object]], right: str = "") -> Table:
    """A plain table; `right` names the headings to align right, with spaces between."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    aligned = set(right.split())
    cells = [[str(cell) for cell in row] for row in rows]
    for index, heading in enumerate(headings):
        longest = max((Text.from_markup(row[index]).cell_len for row in cells), default=0)
        made.add_column(
            heading,
            justify="right" if heading in aligned else "left",
            overflow="fold",
            no_wrap=heading in _IN_ONE_PIECE,
            min_width=min(FOLD_COLUMNS_MIN, longest),
        )
    for row in cells:
        made.add_row(*row)
    return made


def listing(console: Console, listed: Table, nothing: str) -> None:
    """The table, or what to say when it has no rows."""
    if listed.row_count:
        # A terminal that is too narrow even so breaks the lines itself: better than one letter
        # a line.
        unbounded = console.options.update(max_width=10_000)
        needed = console.measure(listed, options=unbounded).minimum
        console.width = max(console.width, needed)
        console.print(listed, crop=False)
    else:
        console.print(f"[dim]{nothing}[/dim]")


def pairs(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    """`name  value` lines with the names in one column."""
    known = [(name, text) for name, text in lines if text]
    width = max((len(name) for name, _ in known), default=0)
    for name, text in known:
        console.print(f"[dim]{name:<{width}}[/dim]  {text}")


def load_breakdown(report: LoadReport) -> str:
    """Where a cold start's time went. The parts overlap."""
    parts = (
        ("manifest", report.manifest_seconds),
        ("skeleton", report.skeleton_seconds),
        ("bytes", report.bytes_seconds),
        ("bind", report.bind_seconds),
        ("prompt", report.encode_seconds),
        ("first step", report.first_step_seconds),
    )
    return " · ".join(f"{name} {seconds(value)}" for name, value in parts)


def load_by_tier(report: LoadReport) -> str:
    """How many bytes came from where, how, and why so: `vram 12.0 MiB, disk 3.1 MiB (page_cache:
    100% is in the page cache)`."""
    texts = []
    for tier in Tier:
        found = [part for part in report.components if part.source is tier]
        if found:
            ways = sorted({_way(part) for part in found if part.copier})
            how = f" ({'; '.join(ways)})" if ways else ""
            texts.append(f"{tier} {size(sum(part.size_bytes for part in found))}{how}")
    return ", ".join(texts)


def _way(part: ComponentLoad) -> str:
    return f"{part.copier}: {part.why}" if part.why else part.copier


def receipt(console: Console, value: Receipt) -> None:
    start = "warm" if value.start_tier is Tier.VRAM else f"cold, from {value.start_tier}"
    rate = money(value.rate_nanodollars_per_second)
    bill = f"{span(value.billed_ms)} × {rate}/s = [bold]{money(value.price_nanodollars)}[/bold]"
    if value.unit:
        each = f"{value.micro_units / 1e6:g} × {money(value.unit_price_nanodollars)}/{value.unit}"
        bill = f"{each} = [bold]{money(value.price_nanodollars)}[/bold]"
    moved = value.load is not None and value.start_tier is not Tier.VRAM
    pairs(
        console,
        (
            ("queue", span(value.queue_ms)),
            ("load", f"{span(value.load_ms)} ({start})"),
            ("", load_by_tier(value.load) if moved and value.load else ""),
            ("", load_breakdown(value.load) if moved and value.load else ""),
            ("run", span(value.run_ms)),
            ("", f"compiled: {value.load.compiled}" if value.load and value.load.compiled else ""),
            ("billed", value.waiver or f"{bill} [dim](prices {value.price_version})[/dim]"),
            ("worker", f"{value.worker_id} ({value.gpu_type}), attempt {value.attempts}"),
            ("why", value.placement.removeprefix(f"{value.worker_id}: ")),
            ("seed", "" if value.seed is None else str(value.seed)),
        ),
    )


def ended(console: Console, value: Request, files: Iterable[Path]) -> None:
    """What a run leaves: its files and its receipt."""
    for path in files:
        console.print(str(path), markup=False)
    console.print(f"[dim]request  {value.request_id}[/dim]")
    if value.receipt is not None:
        receipt(console, value.receipt)


def request(console: Console, value: Request) -> None:
    """Everything about one request."""
    import json

    failure = value.failure
    pairs(
        console,
        (
            ("request", value.request_id),
            ("model", value.model),
            ("state", state(value.state)),
            ("tenant", value.tenant),
            ("submitted", clock(value.submitted_unix_ms)),
            ("finished", clock(value.finished_unix_ms)),
            ("input", json.dumps(dict(value.input), ensure_ascii=False)),
            ("failure", f"{failure.reason}: {failure.message}" if failure else ""),
            ("files", "\n".join(artifact.uri for artifact in value.artifacts)),
        ),
    )
    if value.receipt is not None:
        receipt(console, value.receipt)
