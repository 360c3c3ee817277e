"""A model's input schema: its properties, and how OpenAPI says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quickthaw.gateway.json_text import Json, JsonObject


def schema_properties(schema: Mapping[str, Json]) -> Mapping[str, Json]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def required_properties(schema: Mapping[str, Json]) -> list[str]:
    declared = schema.get("required")
    return [str(name) for name in declared] if isinstance(declared, list) else []


def openapi_schema(schema: Json) -> Json:
    """JSON Schema 2020-12 in the words of OpenAPI 3.0, which has no null type and other limits."""
    if isinstance(schema, str) or not isinstance(schema, (Mapping, Sequence)):
        return schema
    if isinstance(schema, Sequence):
        return [openapi_schema(item) for item in schema]
    converted: JsonObject = {
        name: openapi_schema(value) for name, value in schema.items() if not name.startswith("$")
    }
    types = converted.get("type")
    if isinstance(types, list):
        named = [name for name in types if name != "null"]
        converted["type"] = named[0] if named else "object"
        converted["nullable"] = "null" in types
    if "const" in converted:
        converted["enum"] = [converted.pop("const")]
    for exclusive, inclusive in (
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ):
        limit = converted.get(exclusive)
        if isinstance(limit, (int, float)) and not isinstance(limit, bool):
            converted |= {inclusive: limit, exclusive: True}
    return converted
