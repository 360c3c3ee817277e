"""Tables of operations as OpenAPI has them, for surfaces whose operations are much alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from quickthaw.gateway.json_text import Json, JsonObject

_PARAMETER: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    summary: str
    status: str = "200"
    """Of success."""
    body: str = ""
    """Its media type; empty for none."""
    answer: str = "application/json"
    """The media type of success; empty for none."""
    open_to_all: bool = False


def described_paths(
    operations: Sequence[Operation], errors: Mapping[str, str], schema: str, media_type: str
) -> dict[str, JsonObject]:
    """`errors`: what each status means; all have this schema (of the components) and media type."""
    paths: dict[str, JsonObject] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method] = _described(each, errors, schema, media_type)
    return paths


def _described(
    operation: Operation, errors: Mapping[str, str], schema: str, media_type: str
) -> JsonObject:
    success: JsonObject = {"description": operation.summary}
    if operation.answer:
        success["content"] = {operation.answer: {}}
    responses: JsonObject = {operation.status: success}
    content: JsonObject = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    responses |= {
        status: {"description": text, "content": content} for status, text in errors.items()
    }
    described: JsonObject = {"summary": operation.summary, "responses": responses}
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(operation.path)
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        kind = "string" if operation.body == "*/*" else "object"
        described["requestBody"] = {"content": {operation.body: {"schema": {"type": kind}}}}
    if operation.open_to_all:
        described["security"] = []
    return described
