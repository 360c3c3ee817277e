"""Goals that other benchmarks of this repository measured: their results lie in the same folder.

`bench/fixed_cost.py` has what a load costs beside moving bytes, `bench/fork_to_ready.py` how soon a
new engine process is ready. Where neither was run, there is nothing to show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quickthaw.cli.bench.targets import Target

Json = Mapping[str, Any]

_PREPARED_MS = 20.0
_BUILT_MS = {"sdxl": 130.0, "flux": 90.0}
_FORK_MS = 60.0


def companion_targets(folder: Path) -> list[dict[str, Any]]:
    """As the goals in a result's own document are; empty where there is nothing to say."""
    readers: dict[str, Callable[[Json], list[Target]]] = {
        "fixed_cost": _fixed_cost,
        "fork_to_ready": _fork_to_ready,
    }
    found: list[Target] = []
    for name, read in readers.items():
        path = folder / f"{name}.json"
        try:
            found += read(json.loads(path.read_text(encoding="utf-8"))["results"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not run, or by another version of itself
    return [{**asdict(each), "met": each.met} for each in found]


def _fixed_cost(results: Json) -> list[Target]:
    found: list[Target] = []
    for family, built_ms in _BUILT_MS.items():
        if (line := results.get(family)) is None:
            continue
        for kind, words, wanted in (
            ("prepared", "skeletons prepared", _PREPARED_MS),
            ("fine_tune", "a fine-tune never seen", _PREPARED_MS),
            ("built", "skeletons built", built_ms),
        ):
            goal = f"full-size {family}, all but moving bytes, {words} (fixed_cost.json)"
            found.append(_milliseconds(goal, wanted, line[kind]["wall_ms"]["p50"]))
    return found


def _fork_to_ready(results: Json) -> list[Target]:
    measured = results["forked"]["fork_to_ready_ms_p50"]
    return [_milliseconds("fork to ready (fork_to_ready.json)", _FORK_MS, measured)]


def _milliseconds(goal: str, wanted: float, measured: float) -> Target:
    return Target(goal, wanted, float(measured), at_least=False, unit="ms")
