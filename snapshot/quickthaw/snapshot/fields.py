"""Reading JSON from strangers: each access states what it expects, each failure names the path."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn, TypeAlias, cast

from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.strict_json import parse_json

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"

TEXT_CHARS_MAX = 4096
DEPTH_MAX = 16
LIST_ITEMS_MAX = 4096
ITEMS_MAX = 500_000
"""Of one document, as `parse_json` counts them."""
INTEGER_MAX = (1 << 63) - 1
LAYERS_MAX = 1024
_SIZES_MAX: Mapping[str, int] = {
    # By a part of the key's name. Each is what a library loops over or fills a list with when an
    # object is built, so that a number too large would keep the process busy, or eat its memory.
    "layers": LAYERS_MAX,
    "num_labels": LAYERS_MAX,
    "timesteps": 100_000,
    "inference_steps": 100_000,
}
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")

UNSAFE_CONFIG_KEYS: Mapping[str, str] = {
    "auto_map": "names code to import",
    "custom_pipelines": "names code to import",
    "trust_remote_code": "asks for foreign code to run",
    "_attn_implementation": "may name a kernel to download",
    "_attn_implementation_internal": "may name a kernel to download",
    "attn_implementation": "may name a kernel to download",
    "_experts_implementation": "may name a kernel to download",
    "_experts_implementation_internal": "may name a kernel to download",
    "kernel_config": "may name a kernel to download",
    "quantization_config": "quantised components are not supported",
    "_name_or_path": "may name a place to download from",
}
"""Settings of the libraries that would make building a module run or fetch something."""


def check_config(config: JsonValue, where: str, depth: int = 0) -> None:
    """Refuses unsafe settings at any depth, and nesting or lists without measure."""
    if depth > DEPTH_MAX:
        invalid(Problem.MANIFEST, where, f"is nested deeper than {DEPTH_MAX}")
    match config:
        case dict():
            for key, value in config.items():
                if (why := UNSAFE_CONFIG_KEYS.get(key)) is not None:
                    invalid(Problem.UNSAFE, f"{where}.{key}", f"{why}; remove it and pack again")
                for part, maximum in _SIZES_MAX.items():
                    if part in key and _largest(value) > maximum:
                        invalid(Problem.MANIFEST, f"{where}.{key}", f"is over {maximum}")
                check_config(value, f"{where}.{key}", depth + 1)
        case list():
            if len(config) > LIST_ITEMS_MAX:
                invalid(Problem.MANIFEST, where, f"has more than {LIST_ITEMS_MAX} items")
            for value in config:
                check_config(value, where, depth + 1)
        case str():
            if len(config) > TEXT_CHARS_MAX:
                invalid(Problem.MANIFEST, where, f"is longer than {TEXT_CHARS_MAX} characters")
        case int() if not -INTEGER_MAX <= config <= INTEGER_MAX:
            invalid(Problem.MANIFEST, where, "is a number beyond 64 bits")
        case _:
            pass


def _largest(value: JsonValue) -> float:
    match value:
        case int() | float():
            return value
        case list():
            return max((_largest(item) for item in value), default=0)
        case _:
            return 0


def parse_object(encoded: bytes, where: str, items_max: int = ITEMS_MAX) -> dict[str, JsonValue]:
    """A JSON object without duplicate keys, NaN or infinity; anything else is `SnapshotInvalid`."""
    try:
        document = parse_json(encoded, items_max)
    except ValueError as error:
        invalid(Problem.MANIFEST, where, f"is not JSON: {str(error)[:200]}")
    if not isinstance(document, dict):
        invalid(Problem.MANIFEST, where, "must be a JSON object")
    return cast("dict[str, JsonValue]", document)


class Fields:
    """One JSON object. Each key is asked for once; `done` refuses those nobody asked for."""

    def __init__(self, values: Mapping[str, JsonValue], path: str) -> None:
        self._values = dict(values)
        self.path = path

    @classmethod
    def parse(cls, encoded: bytes, where: str) -> Fields:
        return cls(parse_object(encoded, where), where)

    def fail(self, key: str, message: str) -> NoReturn:
        invalid(Problem.MANIFEST, f"{self.path}.{key}", message)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._values))

    def __contains__(self, key: str) -> bool:
        """Whether an optional key is there, not yet asked for."""
        return key in self._values

    def done(self) -> None:
        if self._values:
            self.fail(next(iter(self._values)), "is not a field of this version of the format")

    def _take(self, key: str) -> JsonValue:
        if key not in self._values:
            self.fail(key, "is missing")
        return self._values.pop(key)

    def text(self, key: str, chars_max: int = TEXT_CHARS_MAX) -> str:
        value = self._take(key)
        if not isinstance(value, str) or len(value) > chars_max:
            self.fail(key, f"must be text of at most {chars_max} characters")
        return value

    def line(self, key: str) -> str:
        """Text for people. It is shown on terminals, which obey some characters."""
        value = self.text(key)
        if not value.isprintable():
            self.fail(key, "must be one line of printable characters")
        return value

    def optional_text(self, key: str) -> str | None:
        if self._values.get(key, 0) is None:
            self._values.pop(key)
            return None
        return self.text(key)

    def identifier(self, key: str) -> str:
        value = self.text(key)
        if not _IDENTIFIER.match(value):
            self.fail(key, f"is {value!r:.80}; must be a name like text_encoder_2")
        return value

    def natural(self, key: str, maximum: int = 1 << 62) -> int:
        value = self._take(key)
        if type(value) is not int or not 0 <= value <= maximum:
            self.fail(key, f"must be a whole number from 0 to {maximum}")
        return value

    def number(self, key: str) -> float:
        return self._number(key, self._take(key))

    def _number(self, key: str, value: JsonValue) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(key, "must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.fail(key, "must be a finite number")
        return number

    def number_rows(
        self, key: str, *, rows_max: int, columns: int, flat: bool = False
    ) -> list[list[float]]:
        """A matrix; `flat` takes a single row that is not wrapped in a list."""
        value = self._take(key)
        rows = [value] if flat else value
        if not isinstance(rows, list) or len(rows) > rows_max:
            self.fail(key, f"must be a list of at most {rows_max} rows")
        for row in rows:
            if not isinstance(row, list) or len(row) != columns:
                self.fail(key, f"must have {columns} numbers a row")
        return [[self._number(key, item) for item in cast("list[JsonValue]", row)] for row in rows]

    def texts(self, key: str, items_max: int) -> tuple[str, ...]:
        value = self._take(key)
        if not isinstance(value, list) or len(value) > items_max:
            self.fail(key, f"must be a list of at most {items_max} texts")
        texts = [item for item in value if isinstance(item, str)]
        if len(texts) != len(value):
            self.fail(key, "must be a list of texts")
        return tuple(texts)

    def mapping(self, key: str) -> dict[str, JsonValue]:
        value = self._take(key)
        if not isinstance(value, dict):
            self.fail(key, "must be an object")
        return value

    def text_mapping(self, key: str) -> dict[str, str]:
        value = self.mapping(key)
        texts = {name: text for name, text in value.items() if isinstance(text, str)}
        if len(texts) != len(value):
            self.fail(key, "must map texts to texts")
        return texts

    def child(self, key: str) -> Fields:
        return Fields(self.mapping(key), f"{self.path}.{key}")

    def optional_child(self, key: str) -> Fields | None:
        if self._values.get(key, 0) is None:
            self._values.pop(key)
            return None
        return self.child(key)

    def children(self, key: str, items_max: int) -> Iterable[Fields]:
        value = self._take(key)
        if not isinstance(value, list) or len(value) > items_max:
            self.fail(key, f"must be a list of at most {items_max} objects")
        found: list[Fields] = []
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                self.fail(f"{key}[{index}]", "must be an object")
            found.append(Fields(item, f"{self.path}.{key}[{index}]"))
        return found
