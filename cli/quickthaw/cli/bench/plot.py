"""The report as a picture: a panel for each tier, a bar for each loader, ours in its phases."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quickthaw.cli.bench.phases import PHASES
from quickthaw.cli.bench.render import Document, factor, lines_of, machine
from quickthaw.cli.bench.rows import From

COLOURS: Mapping[str, str] = {
    "slab": "#9aa5b1",
    "manifest": "#8e44ad",
    "skeleton": "#d4ac0d",
    "tokenizers": "#f0c75e",
    "read": "#1f77b4",
    "hash": "#17a589",
    "copy": "#5dade2",
    "bind": "#cb4335",
    "pipeline": "#e59866",
    "other": "#d5d8dc",
}
PEER_COLOUR, FLOOR_COLOUR, INK = "#c3c8ce", "#2c3e50", "#2c3e50"
_BAR_INCHES, _PANEL_INCHES = 0.27, 0.75


def can_plot() -> bool:
    return find_spec("matplotlib") is not None


def plot(document: Document, path: Path) -> Path:
    """Writes a PNG. Needs matplotlib (`pip install quickthaw[bench]`)."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    rows = document["results"]["rows"]
    panels = [(start, lines_of(rows, start)) for start in From]
    panels = [(start, lines) for start, lines in panels if len(lines) > 1]
    bars = [len(lines) - 1 for _, lines in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(10, sum(bars) * _BAR_INCHES + len(panels) * _PANEL_INCHES + 1.2),
        height_ratios=bars,
        squeeze=False,
        layout="constrained",
    )
    for (start, lines), axis in zip(panels, axes[:, 0], strict=True):
        _panel(axis, start, lines)
    _caption(figure, axes[-1, 0], document)
    _legend(figure, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")
    pyplot.close(figure)
    return path


def _panel(axis: Any, start: From, lines: list[Mapping[str, Any]]) -> None:
    floor, others = lines[0], lines[1:]
    longest = max(line["seconds"]["p95"] for line in lines)
    for place, line in enumerate(others):
        _draw_bar(axis, place, line)
        seconds = line["seconds"]
        axis.errorbar(
            seconds["p50"],
            place,
            xerr=[[seconds["p50"] - seconds["min"]], [seconds["p95"] - seconds["p50"]]],
            color=INK,
            linewidth=0.8,
            capsize=2,
        )
        label = f"{line['gigabytes_per_second']:.2f} GB/s"
        if (times := line.get("times_quickthaw")) is not None:
            label += f"   {factor(times['p50'])}"
        axis.text(
            seconds["p95"] + longest * 0.012, place, label, va="center", fontsize=8, color=INK
        )
    axis.axvline(floor["seconds"]["p50"], color=FLOOR_COLOUR, linewidth=1, linestyle=(0, (4, 3)))
    rate = f"{floor['title']}, {floor['gigabytes_per_second']:.2f} GB/s"
    axis.set_title(f"from {start.words}   ", loc="left", fontsize=11, fontweight="bold", color=INK)
    axis.set_title(f"dashed: {rate}", loc="right", fontsize=8, color=INK)
    axis.set_yticks(range(len(others)), [line["title"] for line in others], fontsize=8.5)
    for tick, line in zip(axis.get_yticklabels(), others, strict=True):
        ours = line["lane"] == "quickthaw" and line["verified"]
        tick.set_fontweight("bold" if ours else "normal")
        tick.set_color(INK)
    axis.set_ylim(len(others) - 0.5, -0.5)
    axis.set_xlim(0, longest * 1.22)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8, colors=INK)
    axis.grid(axis="x", color="#ecf0f1", zorder=0)
    axis.set_axisbelow(True)


def _draw_bar(axis: Any, place: int, line: Mapping[str, Any]) -> None:
    phases: Mapping[str, float] | None = line.get("phases")
    if phases is None:
        axis.barh(place, line["seconds"]["p50"], color=PEER_COLOUR, height=0.68)
        return
    left = 0.0
    for name in PHASES:
        if seconds := phases.get(name):
            axis.barh(place, seconds, left=left, color=COLOURS[name], height=0.68)
            left += seconds


def _caption(figure: Any, axis: Any, document: Document) -> None:
    parameters = document["parameters"]
    figure.suptitle(
        f"Cold start of {parameters['title']}, {parameters['bytes'] / 1e9:.2f} GB in "
        f"{parameters['tensors']} tensors",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    axis.set_xlabel(
        f"seconds until every byte is ready: medians of {parameters['rounds']} rounds in "
        f"alternation on {machine(document)}, whiskers min to p95\n×: how much faster Quickthaw "
        "is, which checks every block's hash; the others check nothing",
        fontsize=8,
        color=INK,
    )


def _legend(figure: Any, rows: Mapping[str, Any]) -> None:
    patches: Any = importlib.import_module("matplotlib.patches")
    used = {name for line in rows.values() for name in line.get("phases", {})}
    handles = [patches.Patch(color=COLOURS[name], label=name) for name in PHASES if name in used]
    handles.append(patches.Patch(color=PEER_COLOUR, label="other loaders"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=-(-len(handles) // (1 if len(handles) < 9 else 2)),
        fontsize=8,
        frameon=False,
        handlelength=1,
        columnspacing=1.2,
    )
