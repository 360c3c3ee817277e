"""What of a simulation is written down: what was asked, and the figures, as plain JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from quickthaw.cli.simulate.options import Setting
from quickthaw.scheduler.simulate.outcome import Figures
from quickthaw.scheduler.simulate.study import Sized


def parameters(asked: Setting, changes: dict[str, float]) -> dict[str, object]:
    spec = asked.specs[0]
    counts: dict[str, int] = {}
    for kind in spec.fleet():
        counts[kind.gpu_type] = counts.get(kind.gpu_type, 0) + 1
    shown = {
        name: getattr(spec, name)
        for name in (
            *("seed", "requests", "models", "tenants", "load", "rate", "traffic", "disk_gib"),
            *("deaths", "slow_disks"),
        )
    }
    kinds = {name: _kind(asdict(asked.fleet.kinds[name])) for name in counts}
    measured = {f"{name}, {what}": text for (name, what), text in asked.fleet.sources.items()}
    return {
        **shown,
        "settings": changes,
        "workers": counts,
        "kinds": kinds,
        "measured": measured,
        "traces": [each.trace for each in asked.specs],
    }


def _kind(fields: dict[str, Any]) -> dict[str, Any]:
    tiers = {tier.name.lower(): list(speed) for tier, speed in fields["tiers"].items()}
    return {**fields, "tiers": tiers}


def compared(found: dict[str, dict[str, Figures]]) -> dict[str, Any]:
    return {
        trace: {name: each._asdict() for name, each in rows.items()}
        for trace, rows in found.items()
    }


def size(sized: Sized) -> dict[str, Any]:
    return {
        "gpu_type": sized.kind.gpu_type,
        "workers": sized.workers,
        "dollars_per_hour": sized.dollars_per_hour,
        "figures": sized.figures._asdict() if sized.figures else None,
    }
