"""A file as an HTTP answer: whole or in part, with the headers that make it harmless to open."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quickthaw.gateway.bodies import until_gone
from quickthaw.gateway.ranges import ByteRange, RangeNotSatisfiable, parse_range

Read = Callable[[ByteRange], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class FileFacts:
    name: str
    content_type: str
    size_bytes: int
    etag: str
    """With its quotation marks."""
    max_age_seconds: int = 86400


async def _nothing() -> None:
    pass


def file_response(
    request: Request,
    facts: FileFacts,
    read: Read,
    on_end: Callable[[], Awaitable[None]] = _nothing,
) -> Response:
    """`read` gives the bytes of a range; `on_end` is called in any case once the answer is over."""
    headers = _headers(facts)
    if request.headers.get("if-none-match") in (facts.etag, "*"):
        return _FileResponse(304, headers, None, on_end)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", facts.etag) != facts.etag:
        wanted = None
    try:
        part = parse_range(wanted, facts.size_bytes)
    except RangeNotSatisfiable:
        headers["content-range"] = f"bytes */{facts.size_bytes}"
        return _FileResponse(416, headers, None, on_end)
    if part is not None:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{facts.size_bytes}"
    span = part or ByteRange(0, facts.size_bytes)
    headers["content-length"] = str(span.stop - span.start)
    pieces = None if request.method == "HEAD" else read(span)
    return _FileResponse(200 if part is None else 206, headers, pieces, on_end)


def _headers(facts: FileFacts) -> dict[str, str]:
    return {
        "content-type": facts.content_type or "application/octet-stream",
        "content-disposition": f"inline; filename*=UTF-8''{quote(facts.name, safe='')}",
        "accept-ranges": "bytes",
        "etag": facts.etag,
        # A link names one file: what it leads to never changes.
        "cache-control": f"private, max-age={facts.max_age_seconds}, immutable",
        # Whatever a model or a caller wrote, it is no page of ours. A browser that shows a video by
        # itself puts it into a page with this policy, where it is media of its own URL.
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; media-src 'self'; sandbox",
    }


class _FileResponse(Response):
    """Sends the pieces, or no body; an early end shows in the length that was promised."""

    def __init__(
        self,
        status: int,
        headers: dict[str, str],
        pieces: AsyncIterator[bytes] | None,
        on_end: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(None, status, headers)
        self._pieces = pieces
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self._send(send))
        finally:
            if isinstance(self._pieces, AsyncGenerator):
                await self._pieces.aclose()
            await self._on_end()

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        if self._pieces is not None:
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
