"""`name=value` on a command line, read as the model's input schema says."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from quickthaw.cli.errors import UsageFault
from quickthaw.client import JsonObject, JsonValue

_SIZE = re.compile(r"(\d+)[xX×](\d+)")
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_WANTED = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "object": "a JSON object",
    "array": "a JSON array",
    "size": "WIDTHxHEIGHT",
    "string": "text",
}


def parse_inputs(pairs: Iterable[str], schema: JsonObject, model: str) -> dict[str, JsonValue]:
    """The input that the pairs spell. Raises UsageFault naming the pair.

    `name=@file` is the text of a file, `name=@@x` the text `@x`. Ranges and the like are left to
    the server, which knows the whole schema.
    """
    properties = _mapping(schema.get("properties"))
    values: dict[str, JsonValue] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise UsageFault(
                f"{pair!r} is no input: write name=value",
                f'for example prompt="a red circle"; `quickthaw models show {model}` lists them',
            )
        if name in values:
            raise UsageFault(f"{name} is given twice")
        if name not in properties and schema.get("additionalProperties") is False:
            raise _unknown(name, tuple(properties), model)
        values[name] = _parse(name, _read(name, text), _mapping(properties.get(name)), model)
    return values


def _unknown(name: str, known: Sequence[str], model: str) -> UsageFault:
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return UsageFault(
        f"{model} takes no input {name!r}{guess}", f"its inputs are: {', '.join(known)}"
    )


def _read(name: str, text: str) -> str:
    if text.startswith("@@"):
        return text[1:]
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageFault(f"{name}: the file {text[1:]!r} cannot be read: {reason}") from error


def _parse(name: str, text: str, rule: Mapping[str, JsonValue], model: str) -> JsonValue:
    kinds = tuple(_kinds(rule))
    for kind in kinds or ("json",):
        try:
            return _READERS[kind](text)
        except ValueError:
            continue
    wanted = " or ".join(_WANTED[kind] for kind in kinds)
    raise UsageFault(
        f"{name}={text[:80]!r} must be {wanted}",
        f"`quickthaw models show {model}` describes the model's inputs",
    )


def _kinds(rule: Mapping[str, JsonValue]) -> Iterable[str]:
    """What a value may be, in the order of trying: text last, since everything is text."""
    found: set[str] = set()
    for each in (rule, *_mappings(rule.get("anyOf")), *_mappings(rule.get("oneOf"))):
        declared = each.get("type")
        names = [declared] if isinstance(declared, str) else declared
        if isinstance(names, Sequence):
            found.update(str(name) for name in names)
        if {"width", "height"} <= _mapping(each.get("properties")).keys():
            found.add("size")
    return (kind for kind in _READERS if kind in found)


def _integer(text: str) -> JsonValue:
    if not re.fullmatch(r"[+-]?\d{1,30}", text.strip()):
        raise ValueError
    return int(text)


def _number(text: str) -> JsonValue:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text.strip()):
        raise ValueError
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _boolean(text: str) -> JsonValue:
    lowered = text.strip().lower()
    if lowered not in _TRUE | _FALSE:
        raise ValueError
    return lowered in _TRUE


def _null(text: str) -> JsonValue:
    if text.strip().lower() not in ("null", "none"):
        raise ValueError
    return None


def _size(text: str) -> JsonValue:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError
    return {"width": int(match[1]), "height": int(match[2])}


def _object(text: str) -> JsonValue:
    value: object = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return cast("JsonObject", value)


def _array(text: str) -> JsonValue:
    value: object = json.loads(text)
    if not isinstance(value, list):
        raise ValueError
    return cast("Sequence[JsonValue]", value)


def _json_or_text(text: str) -> JsonValue:
    """For an input that the schema says nothing about."""
    try:
        return cast("JsonValue", json.loads(text))
    except ValueError:
        return text


_READERS: dict[str, Callable[[str], JsonValue]] = {
    "null": _null,
    "size": _size,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": _object,
    "array": _array,
    "string": str,
    "json": _json_or_text,
}


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: JsonValue) -> Sequence[Mapping[str, JsonValue]]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return ()
    return [each for each in value if isinstance(each, Mapping)]
