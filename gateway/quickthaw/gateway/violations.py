"""What is wrong with a model's arguments, as items with `loc`, `msg` and `type`.

Only asked after the platform refused an input: the schema says again what it said there, but with
the kind of each violation and its limit, which a description for a person does not carry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from quickthaw.gateway.json_text import Json, JsonObject, object_or_empty
from quickthaw.v1 import types_pb2
from quickthaw.wire.errors import FieldViolation

Item: TypeAlias = "dict[str, object]"

ITEMS_MAX = 32
_ECHO_BYTES_MAX = 256
_MESSAGE_END_CHARS = 150
_TYPES: Mapping[str, str] = {
    "string": "string_type",
    "integer": "int_type",
    "number": "float_type",
    "boolean": "bool_type",
    "array": "list_type",
    "object": "dict_type",
    "null": "none_required",
}


def schema_violations(input_: JsonObject, schema: Mapping[str, Json]) -> list[Item]:
    """Nothing if the input fits, or if the schema itself is beyond us."""
    try:
        validator = jsonschema_rs.validator_for(dict(schema))
        found = [_item(error) for error in islice(validator.iter_errors(input_), ITEMS_MAX)]
    except (ValueError, jsonschema_rs.ValidationError):
        return []
    return found


def stated_violations(violations: Sequence[FieldViolation]) -> list[Item]:
    """From the platform's own list: `input.image_size.width` is `body, image_size, width`."""
    return [_stated(violation) for violation in violations[:ITEMS_MAX]]


def violations_from(failure: types_pb2.Failure) -> tuple[FieldViolation, ...]:
    return tuple(
        FieldViolation(each.field, each.description, each.kind, each.limits_json)
        for each in failure.violations
    )


def found_wrong(items: Sequence[Mapping[str, object]]) -> list[types_pb2.FieldViolation]:
    """Items of ours as the platform keeps them; `stated_violations` is the way back."""
    return [
        types_pb2.FieldViolation(
            field=".".join(["input", *_path(item)]),
            description=str(item["msg"]),
            kind=str(item["type"]),
            limits_json=json.dumps(item["ctx"]) if "ctx" in item else "",
        )
        for item in items[:ITEMS_MAX]
    ]


def _path(item: Mapping[str, object]) -> list[str]:
    location = item.get("loc")
    return [str(part) for part in location[1:]] if isinstance(location, list) else []


def _stated(violation: FieldViolation) -> Item:
    item: Item = {
        "loc": _location(violation.field),
        "msg": violation.description,
        "type": violation.kind or "value_error",
    }
    if limits := object_or_empty(violation.limits_json):
        item["ctx"] = limits
    return item


def _location(field: str) -> list[str | int]:
    parts = field.replace("[", ".").replace("]", "").split(".")
    if parts[0] in ("input", "input_json", "body"):
        parts = parts[1:]
    return ["body", *(int(part) if part.isdecimal() else part for part in parts if part)]


def _item(error: jsonschema_rs.ValidationError) -> Item:
    kind, context = _kind(error.kind)
    location: list[str | int] = ["body", *error.instance_path]
    if isinstance(error.kind, Kind.Required):
        location.append(error.kind.property)
    item: Item = {"loc": location, "msg": _message(error), "type": kind}
    if context:
        item["ctx"] = context
    if kind != "missing" and len(json.dumps(error.instance)) <= _ECHO_BYTES_MAX:
        item["input"] = error.instance
    return item


def _message(error: jsonschema_rs.ValidationError) -> str:
    if isinstance(error.kind, Kind.Required):
        return "Field required"
    if len(error.message) <= 2 * _MESSAGE_END_CHARS:
        return error.message
    # It begins with the value, of whatever length, and ends with what is wrong with it.
    return f"{error.message[:_MESSAGE_END_CHARS]} [...] {error.message[-_MESSAGE_END_CHARS:]}"


def _kind(kind: Kind) -> tuple[str, dict[str, object]]:
    match kind:
        case Kind.Required():
            return "missing", {}
        case Kind.Type():
            named = [name for name in kind.types if name != "null"]
            return _TYPES.get(named[0] if named else "null", "value_error"), {}
        case Kind.Minimum():
            return "greater_than_equal", {"ge": kind.limit}
        case Kind.ExclusiveMinimum():
            return "greater_than", {"gt": kind.limit}
        case Kind.Maximum():
            return "less_than_equal", {"le": kind.limit}
        case Kind.ExclusiveMaximum():
            return "less_than", {"lt": kind.limit}
        case Kind.MultipleOf():
            return "multiple_of", {"multiple_of": kind.multiple_of}
        case Kind.Enum():
            return "one_of", {"expected": kind.options}
        case Kind.MinItems():
            return "sequence_too_short", {"min_length": kind.limit}
        case Kind.MaxItems():
            return "sequence_too_long", {"max_length": kind.limit}
        case Kind.MinLength():
            return "string_too_short", {"min_length": kind.limit}
        case Kind.MaxLength():
            return "string_too_long", {"max_length": kind.limit}
        case Kind.AdditionalProperties():
            return "extra_forbidden", {}
        case _:
            return "value_error", {}
