"""Tenants' own models for the gateway's OpenAPI document."""

from __future__ import annotations

from typing import Final

from quickthaw.gateway.described import Operation, described_paths
from quickthaw.gateway.json_text import JsonObject

_ERRORS: Final = {
    "400": "Something is wrong with the call.",
    "401": "No key, or an unknown one.",
    "403": "The key lacks the scope `deploy`, the name is not yours, or your quota is used up.",
    "404": "No such deployment, model or version of this tenant.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "422": "A field is missing or wrong; `detail` is a list with `loc`, `msg` and `type`.",
    "429": "As many deployments are open as may be. `Retry-After` says when to try again.",
    "499": "The request was cancelled.",
    "500": "The platform failed.",
    "501": "This gateway keeps no files.",
    "503": "A part of the platform does not answer.",
}
_JSON: Final = "application/json"
_ENDPOINTS: Final = (
    "/v1/endpoints/{owner}/{name}",
    "/v1/endpoints/{owner}/{name}/{variant}",
)
_OPERATIONS: Final = (
    Operation("post", "/v1/deployments", "Deploy files that were uploaded.", "201", body=_JSON),
    Operation("get", "/v1/deployments", "Your deployments, newest first."),
    Operation(
        "get",
        "/v1/deployments/{deployment_id}",
        "One of them: state, progress, self-test, input schema.",
    ),
    Operation("post", "/v1/deployments/{deployment_id}/cancel", "End it, if it has not ended."),
    *(
        operation
        for each in _ENDPOINTS
        for operation in (
            Operation("get", f"{each}/versions", "What a model has been, newest first."),
            Operation("post", f"{each}/rollback", "Make it one of its versions.", body=_JSON),
            Operation("delete", each, "Delete a model with all its versions.", "204", answer=""),
        )
    ),
)

_TEXT: Final[JsonObject] = {"type": "string"}
_BODY: Final[JsonObject] = {
    "type": "object",
    "required": ["name", "files"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "description": "OWNER/NAME; the owner is your tenant."},
        "files": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1000,
            "description": "URLs of uploads; with `path` for the files of a diffusers folder.",
            "items": {
                "anyOf": [
                    _TEXT,
                    {
                        "type": "object",
                        "properties": {"url": _TEXT, "id": _TEXT, "path": _TEXT},
                        "additionalProperties": False,
                    },
                ]
            },
        },
        "base": {"type": "string", "description": "Required for a LoRA or a single file."},
        "family": _TEXT,
        "defaults": {"type": "object", "description": "Inputs where a request gives none."},
        "test": {"type": "object", "description": "Inputs of the self-test."},
        "visibility": {"type": "string", "enum": ["private", "shared"]},
        "component": _TEXT,
        "dtype": {"type": "string", "enum": ["float16", "bfloat16", "float32"]},
        "quantize": {"type": "string", "enum": ["fp8", "int8"]},
        "scale": {"type": "number"},
        "title": _TEXT,
        "license": _TEXT,
    },
}
_ROLLBACK: Final[JsonObject] = {
    "type": "object",
    "required": ["version"],
    "properties": {"version": {"type": "integer", "minimum": 1}},
}
_CURSOR: Final[JsonObject] = {
    "name": "cursor",
    "in": "query",
    "description": "`next_cursor` of the answer before.",
    "schema": {"type": "string", "maxLength": 64},
}


def deployment_paths() -> JsonObject:
    paths = described_paths(_OPERATIONS, _ERRORS, "Error", _JSON)
    rollbacks = ((f"{each}/rollback", _ROLLBACK) for each in _ENDPOINTS)
    for path, schema in (("/v1/deployments", _BODY), *rollbacks):
        _operation(paths, path, "post")["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": schema}},
        }
    for path in ("/v1/deployments", *(f"{each}/versions" for each in _ENDPOINTS)):
        operation = _operation(paths, path, "get")
        known = operation.get("parameters")
        operation["parameters"] = [*(known if isinstance(known, list) else []), _CURSOR]
    return dict(paths)


def _operation(paths: dict[str, JsonObject], path: str, method: str) -> JsonObject:
    operation = paths[path][method]
    assert isinstance(operation, dict)
    return operation
