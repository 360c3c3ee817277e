"""fal's catalog, tokens, uploads, downloads and proxy for the gateway's OpenAPI document.

WebSockets are left out: OpenAPI has no words for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from quickthaw.gateway.described import Operation, described_paths
from quickthaw.gateway.fal.catalog import EXPANSIONS
from quickthaw.gateway.json_text import JsonObject

_ERRORS: Final = {
    "400": "Something is wrong with the call.",
    "401": "No key or token, or an unknown one.",
    "403": "The key or the upload URL does not allow it.",
    "404": "No such file or upload.",
    "405": "Another method is served at this path.",
    "408": "The body took too long to arrive.",
    "412": "The proxy's target is none of fal's hosts.",
    "413": "The file is too large, or the tenant has too many bytes.",
    "416": "The range begins behind the end.",
    "422": "A field is missing or wrong.",
    "429": "Too much at once; `Retry-After` says when to try again.",
    "500": "The platform failed.",
    "501": "This gateway keeps no files.",
    "503": "A part of the platform does not answer.",
}
_JSON: Final = "application/json"
_FILE: Final = "/files/{file_id}/{name}"
_PARTS: Final = ("/files", _FILE, f"/cdn{_FILE}")

_OPERATIONS: Final = (
    Operation("get", "/v1/models", "The endpoints: all, those that are named, or a search."),
    Operation("get", "/v1/models/pricing", "What endpoints that are named cost."),
    Operation(
        "post", "/v1/models/pricing/estimate", "What so many units, or calls, cost.", body=_JSON
    ),
    Operation("post", "/rest/tokens", "A short-lived token for browsers.", body=_JSON),
    Operation("post", "/rest/storage/auth/token", "A token for uploads.", body=_JSON),
    Operation("post", "/rest/storage/upload/initiate", "A URL to PUT a file to.", body=_JSON),
    Operation(
        "post", "/rest/storage/upload/initiate-multipart", "A URL to PUT parts to.", body=_JSON
    ),
    Operation("post", "/cdn/files/upload", "Bring a whole file.", body="*/*"),
    Operation("post", "/cdn/files/upload/multipart", "Begin a file in parts."),
    Operation(
        "put", "/files/upload/{ticket}", "The bytes of a file.", body="*/*", open_to_all=True
    ),
    *(
        operation
        for below in _PARTS
        for operation in (
            Operation(
                "put",
                f"{below}/multipart/{{ticket}}/{{number}}",
                "The bytes of one part.",
                body="*/*",
                open_to_all=True,
            ),
            Operation(
                "post",
                f"{below}/multipart/{{ticket}}/complete",
                "The parts, which make the file.",
                body=_JSON,
                open_to_all=True,
            ),
        )
    ),
    *(
        Operation("get", path, "A stored file, whole or a range.", answer="*/*", open_to_all=True)
        for path in (
            *("/files/{file_id}", _FILE, "/cdn/files/{file_id}", f"/cdn{_FILE}"),
            "/cdn/files/{signature}/{request_id}/{name}",
        )
    ),
    *(
        Operation(method, "/api/fal/proxy", "The call that `x-fal-target-url` names.", answer="*/*")
        for method in ("get", "post", "put")
    ),
)


_MODELS_QUERY: Final[Sequence[tuple[str, str, JsonObject]]] = (
    (
        "endpoint_id",
        "Only these; may be repeated. To list those that every tenant may call takes no key.",
        {"type": "array", "items": {"type": "string", "maxLength": 200}, "maxItems": 50},
    ),
    ("q", "Words in the id, the description or the category.", {"type": "string"}),
    ("category", "Such as text-to-image.", {"type": "string"}),
    ("status", "All here are active.", {"type": "string", "enum": ["active", "deprecated"]}),
    (
        "expand",
        "`openapi-3.0` adds each endpoint's own document.",
        {"type": "array", "items": {"type": "string", "enum": list(EXPANSIONS)}},
    ),
    ("limit", "Of one page; at most 100.", {"type": "integer", "minimum": 1}),
    ("cursor", "The `next_cursor` of the page before.", {"type": "string"}),
)


def fal_paths() -> JsonObject:
    paths = described_paths(_OPERATIONS, _ERRORS, "Error", _JSON)
    for path, query, required in (
        ("/v1/models", _MODELS_QUERY, False),
        ("/v1/models/pricing", _MODELS_QUERY[:1], True),
    ):
        operation = paths[path]["get"]
        assert isinstance(operation, dict)
        operation["parameters"] = [
            {
                "name": name,
                "in": "query",
                "description": text,
                "required": required,
                "schema": schema,
            }
            for name, text, schema in query
        ]
    return dict(paths)
