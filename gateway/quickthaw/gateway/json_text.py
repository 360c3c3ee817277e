"""JSON in and out, strict where the standard library is generous."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

from quickthaw.gateway.answers import HttpError

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
JsonObject: TypeAlias = "dict[str, Json]"

ITEMS_MAX: Final = 50_000
"""Values of one body. A few bytes of it become a hundred in memory, before its key is known."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def render(value: Json) -> str:
    """ASCII only: some clients decode a stream chunk by chunk and would tear a character apart."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def values_at_most(text: str) -> int:
    """More than there are where texts hold commas or brackets; never fewer."""
    return 1 + sum(map(text.count, ",[{"))


def parse(text: str) -> Json:
    """Raises ValueError, also for numbers and texts that others could not read, and
    RecursionError."""
    value = cast("Json", json.loads(text, parse_constant=_refuse_constant, parse_float=_finite))
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise ValueError(
                f"\\u{half:04x} alone is half a character; send both halves, or neither"
            ) from error
    return value


def parse_object(body: bytes) -> JsonObject:
    """A request's JSON object; nothing at all counts as an empty one. Raises HttpError."""
    if not body.strip():
        return {}
    try:
        text = body.decode(json.detect_encoding(body))
        if values_at_most(text) > ITEMS_MAX:
            raise HttpError(
                413,
                f"the body holds more than {ITEMS_MAX} values; send files as URLs or data: URIs",
                "bad_request",
            )
        value = parse(text)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise HttpError(400, f"the body is not JSON: {what}", "bad_request") from error
    if not isinstance(value, dict):
        raise HttpError(
            422,
            [
                {
                    "loc": ["body"],
                    "msg": "Input should be a JSON object of the model's arguments",
                    "type": "dict_type",
                }
            ],
        )
    return value


def object_or_empty(text: str) -> JsonObject:
    """A JSON object that another part of the platform wrote; anything else counts as empty."""
    try:
        value = cast("Json", json.loads(text)) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is larger than any number")
    return number
