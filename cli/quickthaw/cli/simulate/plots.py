"""A simulation's figures as a picture: a row for each trace, a panel for each figure."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quickthaw.scheduler.simulate.outcome import Figures
from quickthaw.scheduler.simulate.study import OURS

GREEN, GREY, INK = "#0a7d4f", "#b4bac2", "#2c3e50"
_TINTS = (0.35, 0.65, 1.0)
_PANELS: Mapping[str, Callable[[Figures], float]] = {
    "cold starts, % (dark: over the network)": lambda each: each.cold_share * 100,
    "dollars for 1000 requests": lambda each: each.dollars_per_1000,
    "fairness error": lambda each: each.fairness_error,
    "evictions": lambda each: float(each.evictions),
}


def can_plot() -> bool:
    return find_spec("matplotlib") is not None


def plot(tables: Mapping[str, Mapping[str, Figures]], path: Path) -> Path:
    """Writes a PNG. Needs matplotlib (`pip install 'quickthaw[bench]'`)."""
    # Imported by name: it is an extra, and has no types to check against where it is missing.
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    lines = max(len(rows) for rows in tables.values())
    figure, axes = pyplot.subplots(
        len(tables),
        1 + len(_PANELS),
        figsize=(19, len(tables) * (0.9 + 0.28 * lines) + 0.4),
        squeeze=False,
        layout="constrained",
        sharey="row",
        width_ratios=[1.7, *([1] * len(_PANELS))],
    )
    for row, (trace, policies) in zip(axes, tables.items(), strict=True):
        _latencies(row[0], trace, policies)
        for axis, (title, of) in zip(row[1:], _PANELS.items(), strict=True):
            _panel(axis, title, policies, of)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white")
    pyplot.close(figure)
    return path


def _latencies(axis: Any, trace: str, policies: Mapping[str, Figures]) -> None:
    """p99 as a pale bar, p95 and p50 darker in front of it."""
    for place, (policy, figures) in enumerate(policies.items()):
        colour = _colour(policy)
        spans = (figures.p99_seconds, figures.p95_seconds, figures.p50_seconds)
        for seconds, alpha in zip(spans, _TINTS, strict=True):
            axis.barh(place, seconds, color=colour, alpha=alpha, height=0.7)
        axis.text(
            figures.p99_seconds * 1.06, place, f"{figures.p99_seconds:.0f}", va="center", fontsize=8
        )
    axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.set_yticks(range(len(policies)), list(policies), fontsize=9)
    for label in axis.get_yticklabels():
        label.set_weight("bold" if label.get_text() == OURS else "normal")
    axis.invert_yaxis()
    _dress(axis, f"{trace}: latency, s (p50, p95, p99)")


def _panel(
    axis: Any, title: str, policies: Mapping[str, Figures], of: Callable[[Figures], float]
) -> None:
    for place, (policy, figures) in enumerate(policies.items()):
        value = of(figures)
        axis.barh(place, value, color=_colour(policy), alpha=0.65, height=0.7)
        if title.startswith("cold"):
            axis.barh(place, figures.remote_share * 100, color=_colour(policy), height=0.7)
        axis.text(
            value,
            place,
            f" {value:,.0f}" if value >= 100 else f" {value:.3g}",
            va="center",
            fontsize=8,
        )
    axis.margins(x=0.22)
    _dress(axis, title)


def _dress(axis: Any, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, weight="bold", color=INK)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _colour(policy: str) -> str:
    return GREEN if policy == OURS else GREY
