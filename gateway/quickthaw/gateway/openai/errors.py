"""Errors as OpenAI's client knows them."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from quickthaw.gateway.answers import NO_ROUTE, ErrorAnswer, HttpError
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.respond import json_response

_TRIED_AGAIN = frozenset({408, 409, 429})
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_PARAMS = {
    "image_size": "size",
    "num_images": "n",
    "image_url": "image",
    "image_urls": "image",
    "mask_url": "mask",
}
"""What the platform's names for arguments are called here."""
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


_INVALID = "invalid"
_OURS = frozenset({_INVALID, "operation_not_supported"})


def invalid(message: str, param: str | None, code: str | None = None) -> HttpError:
    """400 for an argument."""
    item = {"loc": ["body", *([param] if param else [])], "msg": message, "type": code or _INVALID}
    return HttpError(400, [item])


def error_body(answer: ErrorAnswer) -> JsonObject:
    """`error` with message, type, param and code. What the arguments are guilty of is a 400."""
    status = _status(answer)
    param: Json = None
    code: Json = _CODES.get(status, answer.error_type if status != 400 else None)
    message = answer.text
    if answer.detail == NO_ROUTE:
        code = "unknown_url"
    if not isinstance(answer.detail, str) and answer.detail:
        item = answer.detail[0]
        param = _param(item)
        if item.get("type") in _OURS:
            message = str(item.get("msg"))  # It names the parameter in its own words.
            code = None if item.get("type") == _INVALID else "operation_not_supported"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _param(item: Mapping[str, object]) -> str | None:
    location = item.get("loc")
    if not isinstance(location, list) or len(location) < 2:
        return None
    return _PARAMS.get(str(location[1]), str(location[1]))


def error_response(answer: ErrorAnswer) -> Response:
    """The client repeats 408, 409, 429 and everything from 500 on, unless it is told not to."""
    status = _status(answer)
    passes = status in _TRIED_AGAIN or "retry-after" in answer.headers
    headers = {**answer.headers, "x-should-retry": "true" if passes else "false"}
    return json_response(error_body(answer), status, headers)


def _status(answer: ErrorAnswer) -> int:
    return 400 if answer.status == 422 else answer.status
