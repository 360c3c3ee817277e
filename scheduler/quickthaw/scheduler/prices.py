"""The price table: TOML in, `core.pricing.PriceTable` out."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.wire.errors import SettingsInvalid

_KEYS = {"version", "default_rate_nanodollars_per_second", "rates_nanodollars_per_second"}
RATE_MAX = 10**12
"""A thousand dollars a second: more is a slip of the pen."""


def load_prices(path: Path | None) -> PriceTable:
    """The packaged table if no path is given. Raises SettingsInvalid, naming what is wrong."""
    if path is None:
        text = resources.files("quickthaw.scheduler").joinpath("prices.toml").read_text("utf-8")
        return parse_prices(text, "the packaged prices.toml")
    try:
        return parse_prices(path.read_text("utf-8"), f"--prices {path}")
    except OSError as error:
        raise SettingsInvalid(f"--prices {path}: {error.strerror}") from error


def parse_prices(text: str, name: str) -> PriceTable:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid(f"{name} is not TOML: {error}") from error
    if unknown := table.keys() - _KEYS:
        raise SettingsInvalid(f"{name}: unknown key {sorted(unknown)[0]!r}; known: {sorted(_KEYS)}")
    version = table.get("version")
    if not isinstance(version, str) or not 1 <= len(version) <= 64:
        raise SettingsInvalid(f"{name}: version must be a string of 1 to 64 characters")
    rates = table.get("rates_nanodollars_per_second", {})
    if not isinstance(rates, dict):
        raise SettingsInvalid(f"{name}: rates_nanodollars_per_second must be a table")
    default = "default_rate_nanodollars_per_second"
    return PriceTable(
        version=version,
        default_rate_nanodollars_per_second=_rate(name, default, table.get(default)),
        rates={gpu_type: _rate(name, gpu_type, rate) for gpu_type, rate in rates.items()},
    )


def _rate(name: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= RATE_MAX:
        raise SettingsInvalid(f"{name}: {key} must be a whole number from 0 to {RATE_MAX}")
    return value
