"""JSON in and out, strict where the standard library is generous."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from quickthaw.gateway.answers import HttpError
from quickthaw.wire.strict_json import (
    VALUES_MAX,
    decode,
    half_character,
    may_hold_halves,
    values_at_most,
)

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
JsonObject: TypeAlias = "dict[str, Json]"


def render(value: Json) -> str:
    """ASCII only: some clients decode a stream chunk by chunk and would tear a character apart."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def parse(text: str) -> Json:
    """Raises ValueError, also for numbers and texts that others could not read, and
    RecursionError."""
    value = cast("Json", decode(text))
    if may_hold_halves(text) and (half := half_character(value)) is not None:
        raise ValueError(f"{half} alone is half a character; send both halves, or neither")
    return value


def parse_object(body: bytes) -> JsonObject:
    """A request's JSON object; nothing at all counts as an empty one. Raises HttpError."""
    if not body.strip():
        return {}
    try:
        text = body.decode(json.detect_encoding(body))
        if values_at_most(text) > VALUES_MAX:
            raise HttpError(
                413,
                f"the body holds more than {VALUES_MAX} values; send files as URLs or data: URIs",
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
