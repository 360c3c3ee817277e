"""A result as Markdown, so that no document has numbers of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quickthaw.cli.bench.render import Document, lines_of, machine
from quickthaw.cli.bench.rows import From


def markdown(written: Document, source: str) -> str:
    """A caption and one table: a row a loader, a pair of columns a tier. `source`: the JSON."""
    parameters, rows = written["parameters"], written["results"]["rows"]
    starts = [start for start in From if len(lines_of(rows, start)) > 1]
    heading = ["loader"]
    for start in starts:
        heading += [f"from {start.words}", "CPU-s/GB"]
    titles = _titles(rows, starts)
    lines = [_line(heading), _line(["---", *["---:"] * (len(heading) - 1)])]
    for lane, title in titles.items():
        cells = [f"**{title}**" if lane == "quickthaw" else title]
        for start in starts:
            cells += _cells(rows.get(f"{lane}/{start}"))
        lines.append(_line(cells))
    caption = (
        f"{parameters['title']}, {parameters['bytes'] / 1e9:.2f} GB in {parameters['tensors']} "
        f"tensors on {machine(written)}; seconds until ready, medians of {parameters['rounds']} "
        f"rounds in alternation, and how many times as long as Quickthaw. Quickthaw checks every "
        f"block's hash, the others check nothing. From [`{source}`]({source}), commit "
        f"{str(written['commit'])[:12]}."
    )
    return "\n".join([caption, "", *lines])


def _titles(rows: Mapping[str, Any], starts: Sequence[From]) -> dict[str, str]:
    """Lanes in the order of the first tier, ours first, floors last."""
    titles: dict[str, str] = {}
    for start in starts:
        for line in lines_of(rows, start):
            if line["lane"] not in titles and line.get("verified", True):
                titles[line["lane"]] = line["title"]
    rank = {"quickthaw": 0, "quickthaw-fresh": 1, "floors": 3}
    ordered = dict(sorted(titles.items(), key=lambda item: rank.get(item[0], 2)))
    if "floors" in ordered:
        ordered["floors"] = "*floor*"
    return ordered


def _cells(line: Mapping[str, Any] | None) -> list[str]:
    if line is None:
        return ["", ""]
    times = line.get("times_quickthaw")
    seconds = f"{line['seconds']['p50']:.3f} s"
    if times is not None:
        seconds += f" ({times['p50']:.1f}×)"
    return [seconds, f"{line['cpu_seconds_per_gigabyte']['p50']:.2f}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


BEGIN, END = "<!-- cold-start: begin -->", "<!-- cold-start: end -->"


def replaced(text: str, table: str) -> str:
    """`text` with what is between the markers replaced. Raises ValueError if they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
