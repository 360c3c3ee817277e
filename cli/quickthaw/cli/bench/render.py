"""The report in a terminal: a table and bars for each tier, and what could not be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quickthaw.cli.bench.phases import PHASES
from quickthaw.cli.bench.rows import From

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

BAR_CELLS = 46
PHASE_STYLES: Mapping[str, str] = {
    "slab": "bright_black",
    "manifest": "magenta",
    "skeleton": "yellow",
    "tokenizers": "bright_yellow",
    "read": "cyan",
    "hash": "green",
    "copy": "blue",
    "bind": "red",
    "pipeline": "bright_red",
    "other": "white",
}
_PEER_STYLE, _FLOOR_STYLE = "grey50", "grey35"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEADINGS = ("loader", "p50", "p95", "min", "max", "GB/s", "of floor", "ours", "CPU-s/GB")

Document = Mapping[str, Any]


def report(
    console: Console,
    document: Document,
    *,
    show_targets: bool,
    more_targets: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Everything that a person wants to know of one run."""
    parameters, results = document["parameters"], document["results"]
    console.print(
        f"[bold]{parameters['title']}[/bold]: {parameters['bytes'] / 1e9:.2f} GB in "
        f"{parameters['tensors']} tensors, {parameters['rounds']} rounds on {machine(document)}"
    )
    for start in From:
        lines = lines_of(results["rows"], start)
        if len(lines) > 1:
            _tier(console, start, lines)
    _legend(console, results["rows"])
    for heading, key in (("left out", "absent"), ("failed", "failed")):
        for each in results[key]:
            console.print(f"{heading}: {each['title']}: {each['reason']}", style="yellow")
    if show_targets:
        targets(console, [*results["targets"], *more_targets])


def machine(document: Document) -> str:
    gpu = document["parameters"]["gpu"]
    cpu = f"{document['cores']} cores of {document['cpu']}"
    return f"{gpu} ({cpu})" if gpu else cpu


def factor(times: float) -> str:
    """How much faster or slower ours is than one that takes `times` as long."""
    return f"{times:.2f}× faster" if times >= 1 else f"{1 / times:.2f}× slower"


def lines_of(rows: Mapping[str, Any], start: From) -> list[Mapping[str, Any]]:
    """The rows of one tier: its floor first, then from fast to slow."""
    found = [line for line in rows.values() if line["start"] == start.value]
    return sorted(found, key=lambda line: (line["lane"] != "floors", line["seconds"]["p50"]))


def _tier(console: Console, start: From, lines: Sequence[Mapping[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title=f"\nfrom {start.words}, seconds",
        title_justify="left",
        title_style="bold",
    )
    for heading in _HEADINGS:
        table.add_column(
            heading, justify="left" if heading == "loader" else "right", no_wrap=heading != "loader"
        )
    for line in lines:
        table.add_row(*_cells(line), style=_row_style(line))
    console.print(table)
    longest = max(line["seconds"]["p50"] for line in lines)
    titles = max(len(line["title"]) for line in lines)
    for line in lines:
        bar = _bar(line, longest)
        label = f" {line['seconds']['p50']:.3f} s"
        console.print(f"  {line['title']:<{titles}} ", bar, label, sep="", style=_row_style(line))


def _cells(line: Mapping[str, Any]) -> list[str]:
    seconds = line["seconds"]
    share, times = line.get("share_of_floor"), line.get("times_quickthaw")
    return [
        line["title"],
        *(f"{seconds[name]:.3f}" for name in ("p50", "p95", "min", "max")),
        f"{line['gigabytes_per_second']:.2f}",
        "" if share is None else f"{share['p50']:.2f}",
        "" if times is None else factor(times["p50"]),
        f"{line['cpu_seconds_per_gigabyte']['p50']:.3f}",
    ]


def _row_style(line: Mapping[str, Any]) -> str:
    if line["lane"] == "quickthaw" and line["verified"]:
        return "bold"
    return "dim" if line["lane"] == "floors" else ""


def _bar(line: Mapping[str, Any], longest: float) -> Text:
    from rich.text import Text

    bar = Text()
    style = _FLOOR_STYLE if line["lane"] == "floors" else _PEER_STYLE
    phases = line.get("phases")
    parts = (
        [(style, line["seconds"]["p50"])]
        if phases is None
        else [(PHASE_STYLES[name], seconds) for name, seconds in phases.items()]
    )
    end, drawn = 0.0, 0
    for style, seconds in parts:
        end += seconds / longest * BAR_CELLS
        # Whole cells of one colour each; what is left of a cell goes to the last part.
        bar.append("█" * (int(end) - drawn), style=style)
        drawn = int(end)
    bar.append(_EIGHTHS[int((end - drawn) * 8)].strip(), style=style)
    return bar


def _legend(console: Console, rows: Mapping[str, Any]) -> None:
    from rich.text import Text

    used = {name for line in rows.values() for name in line.get("phases", {})}
    legend = Text("\n  ")
    for name in PHASES:
        if name in used:
            legend.append("█ ", style=PHASE_STYLES[name])
            legend.append(f"{name}  ")
    console.print(legend)


def targets(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """Each goal beside what was measured; a miss is never left out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title="\ngoals",
        title_justify="left",
        title_style="bold",
    )
    for heading in ("goal", "wanted", "measured", ""):
        table.add_column(heading, justify="left" if heading in ("goal", "") else "right")
    for each in found:
        sign, unit = ("≥" if each["at_least"] else "≤"), each["unit"]
        measured = each["measured"]
        words, style = {
            True: ("met", "green"),
            False: ("missed", "bold red"),
            None: ("not measured", "dim"),
        }[each["met"]]
        table.add_row(
            each["goal"],
            f"{sign} {each['wanted']:g} {unit}",
            "" if measured is None else f"{measured:.3g} {unit}",
            words,
            style=style,
        )
    console.print(table)
