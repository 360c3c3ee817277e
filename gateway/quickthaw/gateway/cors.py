"""Browsers of any origin may call: what is protected is protected by keys, never by cookies."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

EXPOSED = "x-fal-request-id, x-fal-error-type, x-fal-request-timeout-type, retry-after"
METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
_HEADERS_WITHOUT_A_LIST = (
    "authorization, content-type, range, idempotency-key, x-fal-request-timeout, "
    "x-fal-queue-priority, x-fal-runner-hint, x-fal-object-lifecycle-preference, x-fal-target-url"
)
_MAX_AGE_SECONDS = 600

ANSWER_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", EXPOSED.encode()),
)
"""On every answer."""


def preflight(headers: Mapping[str, str]) -> Response:
    """The answer to any OPTIONS: whatever headers the caller wants to send are fine."""
    wanted = headers.get("access-control-request-headers") or _HEADERS_WITHOUT_A_LIST
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": METHODS,
            "access-control-allow-headers": wanted,
            "access-control-max-age": str(_MAX_AGE_SECONDS),
            "vary": "access-control-request-headers",
        },
    )
