"""Results of simulations as Markdown, so that no document has numbers of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quickthaw.scheduler.simulate.study import OURS

SHOWN = (OURS, "serverlessllm", "modelmesh", "least loaded", "resident first", "two choices")
COLUMNS_MAX = 5
_MARKED = re.compile(
    r"(?P<begin><!-- (?P<name>[a-z0-9_]+)\.json: begin -->\n).*?"
    r"(?P<end><!-- (?P=name)\.json: end -->)",
    re.DOTALL,
)


def refreshed(text: str, result_of: Callable[[str], Mapping[str, Any]]) -> str:
    """`text` with a new table between each pair of `<!-- NAME.json: begin -->` and `end`.
    `result_of` is asked for NAME. Raises ValueError for a result of another kind."""

    def table(mark: re.Match[str]) -> str:
        lines = markdown(result_of(mark["name"]), mark["name"])
        return f"{mark['begin']}{lines}\n{mark['end']}"

    return _MARKED.sub(table, text)


def markdown(result: Mapping[str, Any], name: str) -> str:
    """A caption and one table."""
    match question := result["parameters"]["question"]:
        case "compare":
            rows = _comparison(result["results"])
        case "ablate":
            rows = _ablation(result["results"])
        case _:
            raise ValueError(f"{name}.json: no table for the question {question!r}")
    head, *body = (f"| {' | '.join(cells)} |" for cells in rows)
    rule = f"| {' | '.join('---' for _ in rows[0])} |"
    return "\n".join([_caption(result, name), "", head, rule, *body])


def _caption(result: Mapping[str, Any], name: str) -> str:
    asked = result["parameters"]
    gpus, seeds = sum(asked["workers"].values()), asked.get("seeds", 1)
    drawn = f"means of {seeds} seeds" if seeds > 1 else f"seed {asked['seed']}"
    return (
        f"`bench/results/{name}.json`: {asked['requests']:,} requests on {gpus:,} GPUs of "
        f"{len(asked['workers'])} types, load {asked['load']:g}, {drawn}"
        f"{', p99 and dollars for 1,000 requests' if asked['question'] == 'compare' else ''}; "
        f"commit {str(result['commit'])[:12]}."
    )


def _comparison(results: Mapping[str, Any]) -> list[list[str]]:
    """A row a trace; what is best in it is bold."""
    played = [name for name in SHOWN if all(name in rows for rows in results.values())]
    policies = played[:COLUMNS_MAX]
    table = [["trace", *policies]]
    for trace, rows in results.items():
        best_p99 = min(rows[name]["p99_seconds"] for name in policies)
        best_cost = min(rows[name]["dollars_per_1000"] for name in policies)
        cells = [f"`{trace}`"]
        for name in policies:
            p99, cost = rows[name]["p99_seconds"], rows[name]["dollars_per_1000"]
            seconds = f"{p99:.1f} s" if p99 < 1000 else f"{p99:,.0f} s"
            cells.append(
                f"{_bold(seconds, p99 == best_p99)} · {_bold(f'${cost:.2f}', cost == best_cost)}"
            )
        table.append(cells)
    return table


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _ablation(results: Mapping[str, Any]) -> list[list[str]]:
    """A row a part that is left out: the change of p50, p99 and cost against the whole."""
    traces = list(results)
    parts = [name for name in results[traces[0]] if name != OURS]
    table = [["left out", *(f"`{trace}`: p50, p99, $" for trace in traces)]]
    table += [[part, *(_change(results[trace], part) for trace in traces)] for part in parts]
    return table


def _change(rows: Mapping[str, Any], part: str) -> str:
    fields: Sequence[str] = ("p50_seconds", "p99_seconds", "dollars_per_1000")
    changes = (rows[part][name] / rows[OURS][name] - 1 for name in fields)
    return ", ".join(f"{change:+.0%}".replace("%", " %") for change in changes)
