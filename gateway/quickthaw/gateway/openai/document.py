"""OpenAI's routes for the gateway's OpenAPI document."""

from __future__ import annotations

from typing import Final

from quickthaw.gateway.described import Operation, described_paths
from quickthaw.gateway.json_text import JsonObject

_BASE: Final = "/openai/v1"
_ERRORS: Final = {
    "400": "An argument is missing or wrong, and `param` names it, or the model cannot do this.",
    "401": "No key, or an unknown one.",
    "402": "The tenant's budget is spent.",
    "403": "The key lacks the scope.",
    "404": "No such model for this tenant.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "429": "The queue is full; `Retry-After` says when to try again.",
    "499": "The request was cancelled.",
    "500": "The model or the platform failed.",
    "503": "No worker or scheduler can take it now.",
    "504": "The longest allowed run has passed.",
}

PROBLEM: Final[JsonObject] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""The schema `OpenAIError`."""

_OPERATIONS: Final = (
    Operation(
        "post",
        f"{_BASE}/images/generations",
        "Pictures from a prompt; with `stream`, server-sent events as they form.",
        body="application/json",
        answer="*/*",
    ),
    Operation(
        "post",
        f"{_BASE}/images/edits",
        "A picture drawn over, everywhere or where a mask is transparent.",
        body="multipart/form-data",
        answer="*/*",
    ),
    Operation(
        "post",
        f"{_BASE}/images/variations",
        "Pictures like the one that is sent.",
        body="multipart/form-data",
    ),
    Operation("get", f"{_BASE}/models", "All models."),
    Operation("get", f"{_BASE}/models/{{model}}", "One model; slashes may be percent-encoded."),
)


def openai_paths() -> JsonObject:
    return dict(described_paths(_OPERATIONS, _ERRORS, "OpenAIError", "application/json"))
