"""Errors as OpenAI's client knows them."""

from __future__ import annotations

from starlette.responses import Response

from quickthaw.gateway.answers import ErrorAnswer, HttpError
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.respond import json_response

_TRIED_AGAIN = frozenset({408, 409, 429})
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_PARAMS = {"image_size": "size", "num_images": "n", "image_url": "image", "mask_url": "mask"}
"""What the platform's names for arguments are called here."""
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def invalid(message: str, param: str | None, code: str | None = None) -> HttpError:
    """400 for an argument."""
    item = {"loc": ["body", *([param] if param else [])], "msg": message, "type": code or "invalid"}
    return HttpError(400, [item])


def error_body(answer: ErrorAnswer) -> JsonObject:
    """`error` with message, type, param and code. What the arguments are guilty of is a 400."""
    status = _status(answer)
    param: Json = None
    code: Json = _CODES.get(status, answer.error_type if status != 400 else None)
    if not isinstance(answer.detail, str) and answer.detail:
        item = answer.detail[0]
        location = item.get("loc")
        if isinstance(location, list) and len(location) > 1:
            param = _PARAMS.get(str(location[1]), str(location[1]))
        if item.get("type") == "operation_not_supported":
            code = "operation_not_supported"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": answer.text, "type": kind, "param": param, "code": code}}


def error_response(answer: ErrorAnswer) -> Response:
    """The client repeats 408, 409, 429 and everything from 500 on, unless it is told not to."""
    status = _status(answer)
    passes = status in _TRIED_AGAIN or "retry-after" in answer.headers
    headers = {**answer.headers, "x-should-retry": "true" if passes else "false"}
    return json_response(error_body(answer), status, headers)


def _status(answer: ErrorAnswer) -> int:
    return 400 if answer.status == 422 else answer.status
