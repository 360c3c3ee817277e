"""What a manifest's input schema may say. It is JSON Schema, which can loop, fetch and backtrack."""

from __future__ import annotations

from quickthaw.snapshot.fields import DEPTH_MAX, LIST_ITEMS_MAX, JsonValue
from quickthaw.snapshot.format import Problem, invalid

PROPERTIES_MAX = 256
REFUSED = frozenset(
    {
        *("$ref", "$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor"),
        *("$recursiveAnchor", "$vocabulary", "pattern", "patternProperties"),
    }
)
"""Keywords that lead elsewhere, in circles, or to regular expressions. Inputs are flat and small;
whoever reads the schema need not be able to deal with these."""
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def check_input_schema(schema: dict[str, JsonValue], where: str) -> dict[str, JsonValue]:
    """The same schema; raises `SnapshotInvalid` if it is none for an object of plain settings."""
    if schema.get("$schema", _DRAFT) != _DRAFT:
        invalid(Problem.MANIFEST, f"{where}.$schema", f"must be {_DRAFT}")
    if schema.get("type", "object") != "object":
        invalid(Problem.MANIFEST, f"{where}.type", "must be object")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or len(properties) > PROPERTIES_MAX:
        invalid(Problem.MANIFEST, f"{where}.properties", f"must be at most {PROPERTIES_MAX} rules")
    for name, rule in properties.items():
        if not isinstance(rule, dict):
            invalid(Problem.MANIFEST, f"{where}.properties.{name}", "must be an object")
    _check(schema, where, 0)
    return schema


def _check(value: JsonValue, where: str, depth: int, *, names: bool = False) -> None:
    """`names`: whether the keys are names of inputs rather than keywords."""
    if depth > DEPTH_MAX:
        invalid(Problem.MANIFEST, where, f"is nested deeper than {DEPTH_MAX}")
    match value:
        case dict():
            for key, item in value.items():
                if key in REFUSED and not names:
                    invalid(Problem.UNSAFE, f"{where}.{key}", "is not allowed in an input schema")
                inputs = key == "properties" and not names
                _check(item, f"{where}.{key}", depth + 1, names=inputs)
        case list():
            if len(value) > LIST_ITEMS_MAX:
                invalid(Problem.MANIFEST, where, f"has more than {LIST_ITEMS_MAX} items")
            for item in value:
                _check(item, where, depth + 1)
        case _:
            pass
