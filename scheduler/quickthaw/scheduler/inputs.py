"""A request's input: checked against the model's JSON Schema, completed, made canonical."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from quickthaw.wire import errors, limits
from quickthaw.wire.strict_json import (
    VALUES_MAX,
    decode,
    half_character,
    may_hold_halves,
    values_at_most,
)

# What json.loads makes; the only place, with `convert`, where values have no better type.
Json: TypeAlias = Any

VIOLATIONS_MAX = 32
"""Told at once; a hostile input must not make an answer of megabytes."""

VALUES_SEARCHED_MAX = 1000

_SHOWN_CHARS_MAX = 80
_DEFAULTS_DEPTH_MAX = 16
_NUMBERS_SHOWN_MAX = 5


class InputSchema:
    """One model's input schema, compiled. Immutable and safe to share.

    Raises InvalidArgument when made from text that is no JSON Schema (2020-12) of an object.
    References outside the schema are refused, not fetched. Patterns run in linear time.
    """

    def __init__(self, schema_json: str) -> None:
        schema = _load_schema(schema_json)
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                schema, offline=True, pattern_options=jsonschema_rs.RegexOptions()
            )
        except (jsonschema_rs.ValidationError, ValueError) as error:
            # The first line says what; the rest repeats the schema.
            raise _bad_schema(str(error).splitlines()[0]) from error
        self._schema = schema
        self._has_defaults = '"default"' in json.dumps(schema)

    def complete(self, input_json: str) -> dict[str, Json]:
        """The input with the schema's defaults filled in. Raises InvalidInput, MessageTooLarge."""
        value = parse_input(input_json)
        if self._has_defaults:
            _fill_defaults(self._schema, self._schema, value, _DEFAULTS_DEPTH_MAX)
        try:
            if self._validator.is_valid(value):  # half the time of a look for what is wrong
                return value
            violations = self._violations(value, values_at_most(input_json))
        except ValueError as error:  # nested deeper than the validator goes
            violations = [errors.FieldViolation("input", f"cannot be checked: {error}")]
        raise _invalid(violations[:VIOLATIONS_MAX])

    def _violations(self, value: dict[str, Json], values: int) -> list[errors.FieldViolation]:
        """What is wrong; of many values the first thing only, for the validator makes all of its
        errors at once, which took it seconds."""
        if values > VALUES_SEARCHED_MAX:
            try:
                self._validator.validate(value)
            except jsonschema_rs.ValidationError as first:
                return list(_describe(first, self._schema))
        violations: list[errors.FieldViolation] = []
        for error in self._validator.iter_errors(value):
            violations.extend(_describe(error, self._schema))
            if len(violations) >= VIOLATIONS_MAX:
                break
        return violations


def parse_input(input_json: str) -> dict[str, Json]:
    """A JSON object; empty text is an empty one. Raises InvalidInput, MessageTooLarge."""
    size_bytes = len(input_json.encode())
    if size_bytes > limits.INPUT_BYTES_MAX:
        raise errors.MessageTooLarge(
            f"the input is {size_bytes} bytes of JSON, more than {limits.INPUT_BYTES_MAX}; pass "
            "large files by URL"
        )
    # So many do not fit fewer bytes.
    if size_bytes > 2 * VALUES_MAX and values_at_most(input_json) > VALUES_MAX:
        told = f"holds more than {VALUES_MAX} values; pass large data by URL"
        raise _invalid([errors.FieldViolation("input", told)])
    try:
        value = decode(input_json or "{}")
    except RecursionError as error:
        raise _invalid([errors.FieldViolation("input", "is nested too deeply")]) from error
    except ValueError as error:
        raise _invalid([errors.FieldViolation("input", f"is not JSON: {error}")]) from error
    if not isinstance(value, dict):
        found = _type_name(value)
        raise _invalid([errors.FieldViolation("input", f"must be a JSON object, not {found}")])
    if may_hold_halves(input_json):
        _refuse_halves(value)
    return cast("dict[str, Json]", value)


def _refuse_halves(value: dict[str, Json]) -> None:
    """Raises InvalidInput, naming the field."""
    for name, each in value.items():
        if (half := half_character({name: each})) is not None:
            field = f"input.{name}".encode(errors="replace").decode()
            told = f"holds {half} alone, half a character: send both halves, or neither"
            raise _invalid([errors.FieldViolation(field, told)])


def canonical(value: Mapping[str, Json]) -> str:
    """JSON text that is equal for equal inputs: sorted keys, no spaces, ASCII.

    ASCII because JSON can escape what neither UTF-8 nor a database's text may hold.
    """
    return _ENCODER.encode(value)


# `json.dumps` makes a new one for each call that has options.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _invalid(violations: list[errors.FieldViolation]) -> errors.InvalidInput:
    shown = "; ".join(f"{each.field} {each.description}" for each in violations[:3])
    more = f"; and {len(violations) - 3} more" if len(violations) > 3 else ""
    return errors.InvalidInput(f"{shown}{more}", violations=tuple(violations))


def _bad_schema(what: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"the input schema is not a usable JSON Schema (2020-12): {what}",
        violations=(errors.FieldViolation("model.input_schema_json", what),),
    )


def _load_schema(schema_json: str) -> dict[str, Json]:
    try:
        schema = json.loads(schema_json)
    except (ValueError, RecursionError) as error:
        raise _bad_schema(f"not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise _bad_schema("it must be a JSON object")
    if schema.get("type") != "object":
        raise _bad_schema('it must say "type": "object"')
    return cast("dict[str, Json]", schema)


def _resolve(root: Mapping[str, Json], schema: Json) -> Json:
    """Follows one `#/...` reference; anything else is left as it is."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    target: Json = root
    for part in reference.removeprefix("#/").split("/"):
        target = target.get(part) if isinstance(target, dict) else None
    return target


def _fill_defaults(root: Mapping[str, Json], schema: Json, value: Json, depth: int) -> None:
    """Adds missing properties that have a default, in place, through objects and arrays."""
    schema = _resolve(root, schema)
    if depth == 0 or not isinstance(schema, dict):
        return
    if isinstance(value, list):
        for item in value:
            _fill_defaults(root, schema.get("items"), item, depth - 1)
    if not isinstance(value, dict):
        return
    properties = schema.get("properties")
    for name, child in (properties if isinstance(properties, dict) else {}).items():
        child = _resolve(root, child)
        if name not in value and isinstance(child, dict) and "default" in child:
            value[name] = copy.deepcopy(child["default"])
        if name in value:
            _fill_defaults(root, child, value[name], depth - 1)
    for part in schema.get("allOf", ()):
        _fill_defaults(root, part, value, depth - 1)


def _describe(
    error: jsonschema_rs.ValidationError, schema: Mapping[str, Json]
) -> Iterator[errors.FieldViolation]:
    field = _path(error.instance_path)
    match error.kind:
        case Kind.Required():
            yield errors.FieldViolation(f"{field}.{error.kind.property}", "is required")
        case Kind.AdditionalProperties() | Kind.UnevaluatedProperties():
            known = _known_properties(schema, error.instance_path)
            hint = f"; known are {', '.join(known)}" if known else ""
            for name in error.kind.unexpected:
                yield errors.FieldViolation(f"{field}.{name}", f"is not an argument{hint}")
        case _:
            yield errors.FieldViolation(field, _what_is_wrong(error))


def _known_properties(schema: Mapping[str, Json], path: list[str | int]) -> list[str]:
    """Names that are allowed at the top; deeper ones are left to the schema's reader."""
    properties = schema.get("properties")
    return sorted(properties) if not path and isinstance(properties, dict) else []


def _path(parts: list[str | int]) -> str:
    return "input" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts)


def _options(options: list[Json], value: Json) -> str:
    """What an enumeration allows: of many numbers those next to the value."""
    numbers = [each for each in options if type(each) is int]
    if len(numbers) < max(len(options), _NUMBERS_SHOWN_MAX) or type(value) is not int:
        return f"one of {_show(options)}"
    lower = [each for each in numbers if each < value]
    higher = [each for each in numbers if each > value]
    near = [*([max(lower)] if lower else []), *([min(higher)] if higher else [])]
    return f"{' or '.join(map(str, near))}, the nearest of what the model takes"


def _what_is_wrong(error: jsonschema_rs.ValidationError) -> str:
    value: Json = error.instance
    match error.kind:
        case Kind.Type():
            wanted = " or ".join(str(name) for name in error.kind.types)
            return f"must be of type {wanted}, not {_type_name(value)}"
        case Kind.Enum():
            return f"must be {_options(error.kind.options, value)}, not {_show(value)}"
        case Kind.Minimum():
            return f"must be at least {error.kind.limit}, not {_show(value)}"
        case Kind.Maximum():
            return f"must be at most {error.kind.limit}, not {_show(value)}"
        case Kind.MultipleOf():
            return f"must be a multiple of {error.kind.multiple_of:g}, not {_show(value)}"
        case Kind.MaxLength():
            return f"must be at most {error.kind.limit} characters long, not {len(value)}"
        case Kind.MinLength():
            return f"must be at least {error.kind.limit} characters long, not {len(value)}"
        case Kind.MaxItems():
            return f"must have at most {error.kind.limit} items, not {len(value)}"
        case Kind.MinItems():
            return f"must have at least {error.kind.limit} items, not {len(value)}"
        case Kind.AnyOf() | Kind.OneOfNotValid():
            ways = [" and ".join(_nested(e) for e in way) for way in error.kind.context]
            return f"fits none of the ways it may be given: {'; or '.join(ways)}"
        case _:
            message = error.message
            return message if len(message) <= 500 else f"breaks the rule '{error.kind.name}'"


def _nested(error: jsonschema_rs.ValidationError) -> str:
    """One reason why one alternative does not fit."""
    violations = _describe(error, {})
    return ", ".join(f"{each.field} {each.description}" for each in violations)


def _show(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…"


def _type_name(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
