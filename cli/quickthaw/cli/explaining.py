"""`quickthaw explain` for a person: who won and by what, and why the others did not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from quickthaw.cli.render import clock, literal, seconds, state

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from quickthaw.client import Candidate, Decision, Explanation, Refusal, Request

BAR_CELLS = 28
CANDIDATES_MAX = 12
"""Shown; more are in `--json`."""
NAMES_MAX = 4
"""Workers that one line of refusals names."""


class Term(NamedTuple):
    """One part of a score: how it is called, drawn and got."""

    name: str
    style: str
    glyph: str
    meaning: str


TERMS: Sequence[Term] = (
    Term("wait", "yellow", "█", "until the worker can begin"),
    Term("load", "blue", "▓", "bringing up what is missing"),
    Term("run", "green", "█", "the run itself"),
    Term("+load", "cyan", "▒", "the load once more: the worker is lost to others meanwhile"),
    Term("+price", "magenta", "▒", "the price, in seconds of the caller's"),
    Term("+evict", "red", "▒", "what others will have to load again"),
)


def explanation(console: Console, found: Explanation, request: Request | None) -> None:
    if request is not None:
        told = f"{literal(request.model)}  {state(request.state)}"
        at = clock(request.submitted_unix_ms)
        console.print(f"[bold]{found.request_id}[/bold]  {told}  [dim]{at}[/dim]")
    if not found.decisions:
        console.print("nothing is known of its placement: it was not looked at yet, or long ago")
        return
    for decision in found.decisions:
        console.print()
        _decision(console, decision)
    console.print()
    _legend(console)


def _decision(console: Console, decision: Decision) -> None:
    ranked = sorted(decision.candidates, key=lambda each: each.score_seconds)
    chosen = next((c for c in ranked if c.worker_id == decision.chosen_worker_id), None)
    at = f"  [dim]{clock(decision.decided_unix_ms)}[/dim]" if decision.decided_unix_ms else ""
    head = f"attempt {decision.attempt}{at}  "
    if not decision.chosen_worker_id:
        console.print(f"{head}[yellow]no worker could take it then[/yellow]")
    else:
        console.print(f"{head}→ [bold]{literal(decision.chosen_worker_id)}[/bold]{_why(chosen)}")
    if ranked:
        _candidates(console, ranked[:CANDIDATES_MAX], decision.chosen_worker_id)
    if len(ranked) > CANDIDATES_MAX:
        more = len(ranked) - CANDIDATES_MAX
        console.print(f"  [dim]and {more} more that scored worse; --json has them[/dim]")
    if decision.tie_break:
        console.print(f"  [dim]tie broken by {literal(decision.tie_break)}[/dim]")
    if decision.refusals:
        console.print()
        for line in refusal_lines(decision.refusals):
            console.print(f"  {line}")


def _why(chosen: Candidate | None) -> str:
    """What the caller waits for, in words."""
    if chosen is None:
        return ""
    parts = []
    if chosen.drain_seconds > 0:
        parts.append(f"waits {seconds(chosen.drain_seconds)}")
    if chosen.load_seconds > 0:
        parts.append(f"loads {seconds(chosen.load_seconds)} from {chosen.start_tier}")
    else:
        parts.append("has the model in VRAM")
    parts.append(f"runs {seconds(chosen.run_seconds)}")
    evicts = len(chosen.evict_digests)
    if evicts:
        parts.append(f"evicts {evicts} component{'s' if evicts > 1 else ''}")
    return ": " + ", ".join(parts)


def _candidates(console: Console, ranked: Sequence[Candidate], chosen: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    longest = max(each.score_seconds for each in ranked)
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("", no_wrap=True)
    shown.add_column("worker", no_wrap=True)
    shown.add_column("score", justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True)
    used = [n for n in range(len(TERMS)) if any(terms(each)[n] for each in ranked)]
    for number in used:
        shown.add_column(TERMS[number].name, justify="right", no_wrap=True, style="default")
    shown.add_column("from", no_wrap=True)
    for each in ranked:
        values = terms(each)
        won = each.worker_id == chosen
        shown.add_row(
            Text(" →" if won else "  ", style="bold green"),
            Text(each.worker_id, style="bold" if won else ""),
            seconds(each.score_seconds),
            bar(values, longest),
            *(Text(seconds(values[n]) if values[n] else "", style=TERMS[n].style) for n in used),
            str(each.start_tier),
        )
    _print_whole(console, shown)


def terms(each: Candidate) -> tuple[float, ...]:
    """In the order of `TERMS`; their sum is the score."""
    return (
        each.drain_seconds,
        each.load_seconds,
        each.run_seconds,
        each.load_term_seconds,
        each.price_term_seconds,
        each.eviction_term_seconds,
    )


def bar(values: Sequence[float], longest: float) -> Text:
    """The terms end to end, on the scale of the longest score; a term that is not nothing gets no
    cell of its own where it is too short for one."""
    from rich.text import Text

    drawn = Text()
    done = 0.0
    cells = 0
    for term, value in zip(TERMS, values, strict=True):
        done += value
        upto = round(done / longest * BAR_CELLS) if longest > 0 else 0
        drawn.append(term.glyph * (upto - cells), style=term.style)
        cells = upto
    return drawn


def refusal_lines(refusals: Iterable[Refusal]) -> list[str]:
    """One line for each reason, the most frequent first; the detail where all share it, or the
    first one's."""
    by_reason: defaultdict[str, list[Refusal]] = defaultdict(list)
    for each in refusals:
        by_reason[each.reason].append(each)
    lines = []
    for reason, alike in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        names = ", ".join(literal(each.worker_id) for each in alike[:NAMES_MAX])
        if len(alike) > NAMES_MAX:
            names += f" and {len(alike) - NAMES_MAX} more"
        count = f" ×{len(alike)}" if len(alike) > 1 else ""
        details = {each.detail for each in alike if each.detail}
        detail = next((each.detail for each in alike if each.detail), "")
        eg = "e.g. " if len(details) > 1 else ""
        told = f"  [dim]{eg}{literal(detail)}[/dim]" if detail else ""
        lines.append(f"[red]✗[/red] {literal(reason)}{count}  {names}{told}")
    return lines


def _legend(console: Console) -> None:
    from rich.text import Text

    for term in TERMS:
        line = Text("  ")
        line.append(term.glyph * 2, style=term.style)
        line.append(f" {term.name:<7}{term.meaning}", style="dim")
        console.print(line)


def _print_whole(console: Console, shown: Table) -> None:
    """A terminal that is too narrow breaks the lines itself; cells are not cut."""
    needed = console.measure(shown, options=console.options.update(max_width=10_000)).minimum
    width, console.width = console.width, max(console.width, needed)
    console.print(shown, crop=False)
    console.width = width
