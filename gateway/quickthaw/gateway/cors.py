"""Which browsers' pages may call: any, or those of the origins that the operator names.

Credentials are never allowed: what is protected is protected by keys and tokens that a page sends
itself, never by cookies that a browser adds to anybody's requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import Response

EXPOSED = (
    "x-fal-request-id, x-fal-error-type, x-fal-request-timeout-type, x-fal-retryable, "
    "x-fal-needs-retry, x-fal-runner-hints, x-request-id, x-should-retry, retry-after, etag"
)
"""What a client in a page reads of an answer, to name it or to decide whether to try again."""
METHODS = "GET, HEAD, POST, PUT, DELETE, QUERY, OPTIONS"
_HEADERS_WITHOUT_A_LIST = (
    "authorization, content-type, range, idempotency-key, x-fal-request-timeout, "
    "x-fal-queue-priority, x-fal-runner-hint, x-fal-object-lifecycle-preference, x-fal-target-url"
)
_MAX_AGE_SECONDS = 600

_ALLOW = b"access-control-allow-origin"
_EXPOSE = (b"access-control-expose-headers", EXPOSED.encode())


@dataclass(frozen=True, slots=True)
class Cors:
    """`origins`: as browsers send them, `https://app.example.com`; none for any."""

    origins: frozenset[str] = frozenset()

    def admits(self, origin: str | None) -> bool:
        """Whether a page of this origin may open a WebSocket; None is no browser's request."""
        return not self.origins or origin is None or origin in self.origins

    def answer_headers(self, origin: str | None) -> Sequence[tuple[bytes, bytes]]:
        """For every answer."""
        if not self.origins:
            return ((_ALLOW, b"*"), _EXPOSE)
        vary = (b"vary", b"origin")
        if origin is None or origin not in self.origins:
            return (vary,)
        return ((_ALLOW, origin.encode("latin-1")), _EXPOSE, vary)


def preflight(headers: Mapping[str, str]) -> Response:
    """The answer to any OPTIONS: whatever headers the caller wants to send are fine, where its
    origin is."""
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
