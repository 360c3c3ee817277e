"""Errors as RFC 7807 has them, which is what Replicate's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from quickthaw.gateway.answers import ErrorAnswer, HttpError
from quickthaw.gateway.json_text import JsonObject, render

_TITLES = {
    401: "Unauthenticated",
    402: "Payment required",
    422: "Input validation failed",
    429: "Too many requests",
}


def invalid(field: str, message: str) -> HttpError:
    """422 for something in the call's own body, such as its version."""
    return HttpError(422, [{"loc": ["body", field], "msg": message, "type": "value_error"}])


def error_body(answer: ErrorAnswer) -> JsonObject:
    title = _TITLES.get(answer.status)
    if title is None:
        phrases = {int(status): status.phrase for status in HTTPStatus}
        title = phrases.get(answer.status, "Request failed")
    return {
        "type": "about:blank",
        "title": title,
        "detail": _detail(answer),
        "status": answer.status,
    }


def error_response(answer: ErrorAnswer) -> Response:
    body = render(error_body(answer))
    return Response(
        body, answer.status, dict(answer.headers), media_type="application/problem+json"
    )


def _detail(answer: ErrorAnswer) -> str:
    """One line for each argument at fault: `- image_size.width: ...`."""
    if isinstance(answer.detail, str):
        return answer.detail
    return "\n".join(_line(item) for item in answer.detail)


def _line(item: Mapping[str, object]) -> str:
    location = item.get("loc")
    parts = [str(part) for part in location[1:]] if isinstance(location, list) else []
    return f"- {'.'.join(parts) or 'input'}: {item.get('msg')}"
