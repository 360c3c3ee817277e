"""A simulation's figures for people: tables in the terminal, a picture."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.simulate.outcome import Figures
from bench.simulate.study import OURS, Sized
from rich.console import Console
from rich.table import Table

_console = Console(stderr=True)
if not _console.is_terminal:
    _console = Console(stderr=True, width=110)

_COLUMNS: Mapping[str, tuple[str, str]] = {
    "p50 s": ("p50_seconds", ".1f"),
    "p95 s": ("p95_seconds", ".1f"),
    "p99 s": ("p99_seconds", ".1f"),
    "$ / 1000": ("dollars_per_1000", ".2f"),
    "cold": ("cold_share", ".1%"),
    "remote": ("remote_share", ".1%"),
    "busy": ("busy_share", ".1%"),
    "unfair s": ("unfairness_seconds", ".0f"),
    "evictions": ("evictions", "d"),
    "lost": ("lost_attempts", "d"),
}


def say(line: str) -> None:
    _console.print(line, style="dim", markup=False, highlight=False)


def table(trace: str, rows: Mapping[str, Figures]) -> None:
    """One line a policy; the best of each latency and of cost is bold."""
    shown = Table(title=trace, title_justify="left", box=None, pad_edge=False)
    shown.add_column("policy", no_wrap=True)
    for heading in _COLUMNS:
        shown.add_column(heading, justify="right", no_wrap=True)
    best = {
        name: min(getattr(each, name) for each in rows.values())
        for name in ("p50_seconds", "p95_seconds", "p99_seconds", "dollars_per_1000")
    }
    for policy, figures in rows.items():
        cells = []
        for name, form in _COLUMNS.values():
            value = getattr(figures, name)
            text = format(value, form)
            cells.append(f"[bold]{text}[/bold]" if best.get(name) == value else text)
        shown.add_row(policy, *cells, style="green" if policy == OURS else None)
    _console.print(shown)


def sizes(trace: str, p99_seconds: float, found: Sequence[Sized]) -> None:
    """The cheapest fleet that keeps the promise is marked."""
    shown = Table(
        title=f"{trace}: fleets that keep p99 under {p99_seconds:g} s",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("GPU", "how many", "$ an hour", "p50 s", "p99 s", "busy"):
        shown.add_column(heading, justify="left" if heading == "GPU" else "right", no_wrap=True)
    cheapest = min((each.dollars_per_hour or math.inf for each in found), default=math.inf)
    for each in found:
        if each.figures is None:
            shown.add_row(each.kind.gpu_type, "the largest model does not fit", *[""] * 4)
            continue
        hourly = each.dollars_per_hour
        shown.add_row(
            each.kind.gpu_type,
            str(each.workers) if each.workers else "no number within bounds",
            f"{hourly:.2f}" if hourly else "",
            f"{each.figures.p50_seconds:.1f}",
            f"{each.figures.p99_seconds:.1f}",
            f"{each.figures.busy_share:.0%}",
            style="green" if hourly == cheapest else None,
        )
    _console.print(shown)


def sized(found: Sequence[Sized]) -> dict[str, object]:
    return {
        each.kind.gpu_type: {
            "workers": each.workers,
            "dollars_per_hour": each.dollars_per_hour,
            "figures": each.figures._asdict() if each.figures else None,
        }
        for each in found
    }


def picture(tables: Mapping[str, Mapping[str, Figures]], path: Path) -> None:
    """Cost against p99, a panel for each trace: low and left is better."""
    if importlib.util.find_spec("matplotlib") is None:
        say("no picture: pip install matplotlib")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(tables))
    rows = -(-len(tables) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(6.5 * columns, 4.6 * rows), squeeze=False, layout="constrained"
    )
    for axis, (trace, policies) in zip(axes.flat, tables.items(), strict=False):
        for policy, figures in policies.items():
            ours = policy == OURS
            axis.scatter(
                figures.dollars_per_1000,
                figures.p99_seconds,
                s=90 if ours else 45,
                color="#0a7d4f" if ours else "#8a8f98",
                zorder=3,
            )
            axis.annotate(
                policy,
                (figures.dollars_per_1000, figures.p99_seconds),
                xytext=(7, 4),
                textcoords="offset points",
                fontsize=9,
                weight="bold" if ours else "normal",
            )
        axis.set_yscale("log")
        axis.margins(0.18)
        axis.set_title(trace, loc="left", weight="bold")
        axis.set_xlabel("dollars for 1000 requests")
        axis.set_ylabel("99th percentile of latency, s")
        axis.grid(alpha=0.25, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes.flat)[len(tables) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=130)
    say(f"drawn: {path}")
