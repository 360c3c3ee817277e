"""`/api/fal/proxy`: one URL for every call, the real target in a header.

Some of fal's clients can be told a proxy and nothing else. Nothing is sent anywhere: the request is
served here as if it had come to the host that it names.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.front import exchange_of
from quickthaw.gateway.surfaces import route_path, surface_of

PATH: Final = "/api/fal/proxy"
METHODS: Final = ["GET", "POST", "PUT"]
TARGET_HEADER: Final = "x-fal-target-url"
_DOMAINS: Final = ("fal.run", "fal.ai", "fal.media", "falrun.com")


class Proxy:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises HttpError 400 without a target, 412 for one that is not fal's."""
        host, path, query = _target(Headers(scope=scope).get(TARGET_HEADER))
        routed = route_path(host, path)
        if routed == PATH:
            raise HttpError(
                412, f"{TARGET_HEADER} names the proxy itself: name what to call", "bad_request"
            )
        exchange = exchange_of(Request(scope))
        exchange.surface = surface_of(routed)
        router = scope["router"]
        assert isinstance(router, Router)
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        inner: Scope = {
            **scope,
            "path": routed,
            "raw_path": routed.encode(),
            "query_string": query.encode(),
            "headers": [*headers, (b"host", host.encode())],
            "path_params": {},
        }
        await router(inner, receive, send)


def _target(url: str | None) -> tuple[str, str, str]:
    """Host, path and query."""
    if not url:
        raise HttpError(400, f"{TARGET_HEADER} is missing: it names the URL to call", "bad_request")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise HttpError(412, f"{TARGET_HEADER} is no URL: {error}", "bad_request") from error
    known = any(host == domain or host.endswith(f".{domain}") for domain in _DOMAINS)
    if parts.scheme not in ("http", "https") or not known or not url.isascii():
        raise HttpError(
            412,
            f"{TARGET_HEADER} must be a URL under {', '.join(_DOMAINS)}: nothing else is served",
            "bad_request",
        )
    return host, unquote(parts.path) or "/", parts.query


ROUTES = [Route(PATH, Proxy(), methods=METHODS)]
