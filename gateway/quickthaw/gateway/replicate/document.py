"""Replicate's routes for the gateway's OpenAPI document.

Searching models is left out: its method, QUERY, is none that OpenAPI 3.1 knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from quickthaw.gateway.json_text import Json, JsonObject

_BASE: Final = "/replicate/v1"
_PROBLEMS: Final = {
    "400": "Something else than an input is wrong with the call.",
    "401": "No key, or an unknown one.",
    "402": "The tenant's budget is spent.",
    "403": "The key lacks the scope.",
    "404": "No such model, version, prediction or file of this tenant.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "422": "An input or a field is missing or wrong; `detail` has a line for each.",
    "429": "The queue is full; `Retry-After` says when to try again.",
    "500": "The platform failed.",
    "501": "This gateway keeps no files.",
    "503": "No worker or scheduler can take it now.",
}
_PARAMETER: Final = re.compile(r"\{(\w+)\}")

PROBLEM: Final[JsonObject] = {
    "type": "object",
    "required": ["title", "detail", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "status": {"type": "integer"},
    },
}
"""The schema `Problem`."""


@dataclass(frozen=True, slots=True)
class _Operation:
    method: str
    path: str
    summary: str
    status: str = "200"
    body: str = ""
    """Its media type; empty for none."""


_OPERATIONS: Final = (
    _Operation("post", "/predictions", "Make a prediction by version.", "201", "application/json"),
    _Operation("get", "/predictions", "Your predictions, newest first."),
    _Operation("get", "/predictions/{prediction}", "One prediction."),
    _Operation("post", "/predictions/{prediction}/cancel", "Cancel a prediction."),
    _Operation("get", "/models", "All models."),
    _Operation("get", "/models/{owner}/{name}", "One model."),
    _Operation(
        "post",
        "/models/{owner}/{name}/predictions",
        "Make a prediction by model.",
        "201",
        "application/json",
    ),
    _Operation("get", "/models/{owner}/{name}/versions", "The versions of a model."),
    _Operation("get", "/models/{owner}/{name}/versions/{version}", "One version."),
    _Operation("post", "/files", "Bring a file for an input.", "201", "multipart/form-data"),
    _Operation("get", "/files", "The files that you brought."),
    _Operation("get", "/files/{file_id}", "One of them."),
    _Operation("delete", "/files/{file_id}", "Delete it.", "204"),
    _Operation("get", "/account", "Who the key belongs to."),
    _Operation("get", "/hardware", "The kinds of GPU that have a price."),
    _Operation("get", "/webhooks/default/secret", "What your webhooks are signed with."),
)


def replicate_paths() -> JsonObject:
    paths: dict[str, dict[str, Json]] = {}
    for each in _OPERATIONS:
        paths.setdefault(_BASE + each.path, {})[each.method] = _described(each)
    stream: JsonObject = {
        "summary": "A prediction as it happens; the URL is in the prediction.",
        "security": [],
        "parameters": [_parameter("seal")],
        "responses": {
            "200": {
                "description": "Server-sent events: `output`, `logs`, `error` and `done`.",
                "content": {"text/event-stream": {}},
            },
            "404": {"description": "No such stream, or no more.", "content": _ERROR},
            "503": {"description": "The scheduler does not answer.", "content": _ERROR},
        },
    }
    return {**paths, "/v1/files/stream-{seal}": {"get": stream}}


def _described(operation: _Operation) -> JsonObject:
    success: JsonObject = {"description": operation.summary}
    if operation.status != "204":
        success["content"] = {"application/json": {}}
    responses: JsonObject = {operation.status: success}
    for status, text in _PROBLEMS.items():
        content: JsonObject = {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        }
        responses[status] = {"description": text, "content": content}
    described: JsonObject = {"summary": operation.summary, "responses": responses}
    if names := _PARAMETER.findall(operation.path):
        described["parameters"] = [_parameter(name) for name in names]
    if operation.body:
        described["requestBody"] = {"content": {operation.body: {"schema": {"type": "object"}}}}
    return described


def _parameter(name: str) -> JsonObject:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


_ERROR: Final[JsonObject] = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
