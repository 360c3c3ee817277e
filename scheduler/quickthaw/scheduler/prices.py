"""The price table: TOML in, `core.pricing.PriceTable` out."""

from __future__ import annotations

import asyncio
import logging
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import NoReturn

from quickthaw.scheduler.core.pricing import ModelPrice, PriceTable, Unit
from quickthaw.wire.errors import SettingsInvalid

logger = logging.getLogger(__name__)

RATE_MAX = 10**12
"""A thousand dollars a second, or for one output: more is a slip of the pen."""
_DEFAULT = "default_rate_nanodollars_per_second"
_RATES = "rates_nanodollars_per_second"
_DEDICATED = "dedicated_rates_nanodollars_per_second"
_KEYS = ("version", _DEFAULT, _RATES, _DEDICATED, "models")
_RATE = "rate_nanodollars_per_second"
_UNIT_PRICE = "unit_price_nanodollars"
_MODEL_KEYS = (_RATE, _RATES, "unit", _UNIT_PRICE)
_MODELS_MAX = 100_000


def load_prices(path: Path | None) -> PriceTable:
    """The packaged table if no path is given. Raises SettingsInvalid, naming what is wrong."""
    if path is None:
        text = resources.files("quickthaw.scheduler").joinpath("prices.toml").read_text("utf-8")
        return parse_prices(text, "the packaged prices.toml")
    try:
        return parse_prices(path.read_text("utf-8"), f"--prices {path}")
    except OSError as error:
        raise SettingsInvalid(f"--prices {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsInvalid(f"--prices {path} is not UTF-8 text: {error.reason}") from error


def parse_prices(text: str, name: str) -> PriceTable:
    """Raises SettingsInvalid, naming the line, the key and what to write."""
    try:
        document: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid(f"{name} is not TOML: {error}") from error
    return _Parser(text, name).table(document)


class _Parser:
    """`path` of a value is the keys that lead to it; it also finds the line to name."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name

    def table(self, document: Mapping[str, object]) -> PriceTable:
        self._known(document, _KEYS, ())
        version = document.get("version")
        if not isinstance(version, str) or not 1 <= len(version) <= 64 or not version.isprintable():
            self._fail(("version",), 'must be a string of 1 to 64 characters, as in version = "1"')
        if _DEFAULT not in document:
            self._fail(
                (_DEFAULT,),
                "is missing: write what a second costs on GPU types that are not named, as in "
                f"{_DEFAULT} = 800_000",
            )
        models = self._table(document.get("models", {}), ("models",))
        if len(models) > _MODELS_MAX:
            self._fail(("models",), f"must name at most {_MODELS_MAX} models")
        return PriceTable(
            version=version,
            default_rate_nanodollars_per_second=self._amount(document[_DEFAULT], (_DEFAULT,)),
            rates=self._rates(document.get(_RATES, {}), (_RATES,)),
            models={name: self._model(terms, ("models", name)) for name, terms in models.items()},
            dedicated_rates=self._rates(document.get(_DEDICATED, {}), (_DEDICATED,)),
        )

    def _model(self, value: object, path: tuple[str, ...]) -> ModelPrice:
        terms = self._table(value, path)
        self._known(terms, _MODEL_KEYS, path)
        if not terms:
            self._fail(path, f"says nothing: give it one of {', '.join(_MODEL_KEYS)}")
        timed = [key for key in (_RATE, _RATES) if key in terms]
        sold = [key for key in ("unit", _UNIT_PRICE) if key in terms]
        if timed and sold:
            self._fail(
                (*path, timed[0]), "cannot stand beside a unit: charge time or outputs, not both"
            )
        if len(sold) == 1:
            other = _UNIT_PRICE if sold[0] == "unit" else "unit"
            self._fail((*path, sold[0]), f"needs {other} beside it")
        if sold:
            return ModelPrice(
                unit=self._unit(terms["unit"], (*path, "unit")),
                unit_price_nanodollars=self._amount(terms[_UNIT_PRICE], (*path, _UNIT_PRICE)),
            )
        return ModelPrice(
            rate_nanodollars_per_second=(
                self._amount(terms[_RATE], (*path, _RATE)) if _RATE in terms else None
            ),
            rates=self._rates(terms.get(_RATES, {}), (*path, _RATES)),
        )

    def _unit(self, value: object, path: tuple[str, ...]) -> Unit:
        try:
            return Unit(value)
        except ValueError:
            units = ", ".join(f'"{unit.value}"' for unit in Unit)
            self._fail(path, f"is {value!r}, which is not sold; write one of {units}")

    def _rates(self, value: object, path: tuple[str, ...]) -> dict[str, int]:
        rates = self._table(value, path)
        return {gpu_type: self._amount(rate, (*path, gpu_type)) for gpu_type, rate in rates.items()}

    def _amount(self, value: object, path: tuple[str, ...]) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= RATE_MAX:
            self._fail(
                path,
                f"must be a whole number of nano-dollars from 0 to {RATE_MAX}, not {value!r} "
                "(a thousandth of a dollar is 1_000_000)",
            )
        return value

    def _table(self, value: object, path: tuple[str, ...]) -> dict[str, object]:
        if not isinstance(value, dict):
            self._fail(path, f"must be a table, as in [{_dotted(path)}]")
        return value

    def _known(
        self, table: Mapping[str, object], known: Iterable[str], path: tuple[str, ...]
    ) -> None:
        for key in table:
            if key not in known:
                self._fail((*path, key), f"is no key; write one of {', '.join(known)}")

    def _fail(self, path: tuple[str, ...], what: str) -> NoReturn:
        line = _line_of(self._text, path)
        where = f"{self._name}, line {line}" if line else self._name
        raise SettingsInvalid(f"{where}: {_dotted(path)} {what}")


def _dotted(path: tuple[str, ...]) -> str:
    bare = (key.replace("-", "").replace("_", "") for key in path)
    return ".".join(
        key if plain.isascii() and plain.isalnum() else f'"{key}"'
        for key, plain in zip(path, bare, strict=True)
    )


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """Where a key of a valid document is, or what it lies in; 0 if it is nowhere. The standard
    parser does not say, so each line is read alone, which is right for all but strings over
    several lines."""
    header: tuple[str, ...] = ()
    best, best_line = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        try:
            keys = _only_path(tomllib.loads(line))
        except tomllib.TOMLDecodeError:
            continue
        if line.lstrip().startswith("["):
            here = header = keys
        else:
            here = (*header, *keys) if keys else ()
        if here and best < len(here) <= len(path) and path[: len(here)] == here:
            best, best_line = len(here), number
    return best_line


def _only_path(value: object) -> tuple[str, ...]:
    """The keys of a line: `[a.b]` and `a.b = 1` are both `a`, `b`; a value in braces ends it."""
    path: tuple[str, ...] = ()
    while isinstance(value, dict) and len(value) == 1:
        key, value = next(iter(value.items()))
        path = (*path, key)
    return path


async def watch_prices(
    path: Path,
    in_force: Callable[[], PriceTable],
    take: Callable[[PriceTable], None],
    refused: Callable[[], None],
    interval_seconds: float,
) -> None:
    """Takes over the file whenever it was changed; never returns. A table that is wrong is logged,
    and the old one stays in force; so is one that changes prices under the same version, for
    receipts name the version."""
    seen = await asyncio.to_thread(_stamp, path)
    while True:
        await asyncio.sleep(interval_seconds)
        stamp = await asyncio.to_thread(_stamp, path)
        if stamp == seen:
            continue
        seen = stamp
        try:
            table = await asyncio.to_thread(load_prices, path)
            if table != in_force() and table.version == in_force().version:
                raise SettingsInvalid(
                    f"--prices {path}: prices changed but version is still {table.version!r}; give "
                    "it a new one"
                )
        except SettingsInvalid as error:
            logger.error("prices stay as they were: %s", error.message)
            refused()
            continue
        if table != in_force():
            take(table)
            logger.info("prices are now those of version %s", table.version)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes when the file does, or is replaced."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
