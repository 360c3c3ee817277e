"""Single numbers of the core's settings, by name: for trying them out in simulation, and for a
scheduler that is to run by what was found there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.wire.errors import SettingsInvalid

_GROUPS = ("placement", "supply", "crash")


def names(settings: CoreSettings) -> dict[str, float]:
    """Every number with its value. Those of the supply and the crash policy have its name and a
    dot before theirs."""
    found: dict[str, float] = {}
    for prefix, part in _parts(settings):
        for each in fields(part):
            value = getattr(part, each.name)
            if isinstance(value, int | float):
                found[prefix + each.name] = value
    return found


def _parts(settings: CoreSettings) -> list[tuple[str, Any]]:
    return [
        ("", settings),
        ("", settings.placement),
        ("supply.", settings.supply),
        ("crash.", settings.crash),
    ]


def parse_numbers(option: str, pairs: list[str] | tuple[str, ...]) -> dict[str, float]:
    """`NAME=NUMBER` each. Raises SettingsInvalid, naming the option and the pair."""
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            found[name] = int(text) if text.isdecimal() else float(text)
        except ValueError:
            raise SettingsInvalid(f"{option} {pair}: must be NAME=NUMBER") from None
    with_numbers(CoreSettings(), found)
    return found


def with_numbers(settings: CoreSettings, numbers: Mapping[str, float]) -> CoreSettings:
    """Raises SettingsInvalid for a name that is none, and for a number that it cannot have."""
    known = names(settings)
    parts: dict[str, dict[str, Any]] = {group: {} for group in ("", *_GROUPS)}
    of_placement = {each.name for each in fields(settings.placement)}
    for name, number in numbers.items():
        if name not in known:
            raise SettingsInvalid(
                f"the core has no setting {name!r}; known: {', '.join(sorted(known))}"
            )
        if not math.isfinite(number) or number < 0:
            raise SettingsInvalid(f"{name}={number} must be a number that is not negative")
        if isinstance(known[name], int) and number != int(number):
            raise SettingsInvalid(f"{name}={number} must be a whole number")
        group, _, own = name.rpartition(".")
        if name in of_placement:
            group = "placement"
        parts[group][own] = type(known[name])(number)
    changed = {
        group: replace(getattr(settings, group), **parts[group])
        for group in _GROUPS
        if parts[group]
    }
    return replace(settings, **parts[""], **changed)
