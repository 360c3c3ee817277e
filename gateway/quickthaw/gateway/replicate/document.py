"""Replicate's routes for the gateway's OpenAPI document.

Searching models is left out: its method, QUERY, is none that OpenAPI 3.1 knows.
"""

from __future__ import annotations

from typing import Final

from quickthaw.gateway.described import Operation, described_paths
from quickthaw.gateway.json_text import JsonObject

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


_OPERATIONS: Final = (
    Operation(
        "post", f"{_BASE}/predictions", "Make a prediction by version.", "201", "application/json"
    ),
    Operation("get", f"{_BASE}/predictions", "Your predictions, newest first."),
    Operation("get", f"{_BASE}/predictions/{{prediction}}", "One prediction."),
    Operation("post", f"{_BASE}/predictions/{{prediction}}/cancel", "Cancel a prediction."),
    Operation("get", f"{_BASE}/models", "All models."),
    Operation("get", f"{_BASE}/models/{{owner}}/{{name}}", "One model."),
    Operation(
        "post",
        f"{_BASE}/models/{{owner}}/{{name}}/predictions",
        "Make a prediction by model.",
        "201",
        "application/json",
    ),
    Operation("get", f"{_BASE}/models/{{owner}}/{{name}}/versions", "The versions of a model."),
    Operation("get", f"{_BASE}/models/{{owner}}/{{name}}/versions/{{version}}", "One version."),
    Operation("post", f"{_BASE}/files", "Bring a file for an input.", "201", "multipart/form-data"),
    Operation("get", f"{_BASE}/files", "The files that you brought."),
    Operation("get", f"{_BASE}/files/{{file_id}}", "One of them."),
    Operation("delete", f"{_BASE}/files/{{file_id}}", "Delete it.", "204", answer=""),
    Operation("get", f"{_BASE}/account", "Who the key belongs to."),
    Operation("get", f"{_BASE}/hardware", "The kinds of GPU that have a price."),
    Operation("get", f"{_BASE}/webhooks/default/secret", "What your webhooks are signed with."),
)


def replicate_paths() -> JsonObject:
    stream: JsonObject = {
        "summary": "A prediction as it happens; the URL is in the prediction.",
        "security": [],
        "parameters": [
            {"name": "seal", "in": "path", "required": True, "schema": {"type": "string"}}
        ],
        "responses": {
            "200": {
                "description": "Server-sent events: `output`, `logs`, `error` and `done`.",
                "content": {"text/event-stream": {}},
            },
            "404": {"description": "No such stream, or no more.", "content": _ERROR},
            "503": {"description": "The scheduler does not answer.", "content": _ERROR},
        },
    }
    paths = described_paths(_OPERATIONS, _PROBLEMS, "Problem", "application/problem+json")
    return {**paths, "/v1/files/stream-{seal}": {"get": stream}}


_ERROR: Final[JsonObject] = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
