"""Reading JSON that somebody else wrote: each field is what it must be, or is named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping


class Fields:
    """A JSON object. Every method raises ValueError, naming the field and what it should be."""

    def __init__(self, values: Mapping[object, object], path: str = "") -> None:
        self._values = values
        self._path = path

    def text(self, name: str, default: str | None = None) -> str:
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise ValueError(f"{self._path}{name} must be a string, but is {_shown(value)}")
        return value

    def has(self, name: str) -> bool:
        """Whether it is there and not null."""
        return self._values.get(name) is not None

    def is_number(self, name: str) -> bool:
        value = self._values.get(name)
        return isinstance(value, int | float) and not isinstance(value, bool)

    def number(self, name: str, default: float | None = None) -> float:
        """Finite and at least 0."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self._path}{name} must be a number, but is {_shown(value)}")
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{self._path}{name} must be at least 0, but is {value}")
        return value

    def object(self, name: str) -> Fields:
        """An empty one if it is null or missing."""
        value = self._values.get(name)
        if value is None:
            return Fields({}, f"{self._path}{name}.")
        if not isinstance(value, dict):
            raise ValueError(f"{self._path}{name} must be an object, but is {_shown(value)}")
        return Fields(value, f"{self._path}{name}.")

    def objects(self, name: str) -> Iterator[Fields]:
        value = self._values.get(name)
        if not isinstance(value, list):
            raise ValueError(f"{self._path}{name} must be a list, but is {_shown(value)}")
        for index, each in enumerate(value):
            if not isinstance(each, dict):
                raise ValueError(f"{self._path}{name}[{index}] must be an object")
            yield Fields(each, f"{self._path}{name}[{index}].")


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]
