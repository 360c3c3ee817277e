"""`/files/...`: a stored file for the holder of its link, without a key, whole or in part."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quickthaw.gateway.bodies import until_gone
from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.ranges import ByteRange, RangeNotSatisfiable, parse_range
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.errors import ArtifactCorrupt, ArtifactNotFound

Parts = AsyncGenerator[inference_pb2.ReadArtifactResponse, None]


async def read_file(request: Request) -> Response:
    """Raises ArtifactNotFound for a link that we did not make and for a file that is gone."""
    gateway = gateway_of(request)
    uri = gateway.links.uri(
        request.path_params["signature"],
        f"{request.path_params['request_id']}/{request.path_params['name']}",
    )
    parts = gateway.platform.read_artifact(gateway.own_credential, uri)
    try:
        first = await anext(parts, None)
        if first is None or not first.HasField("artifact"):
            raise ArtifactNotFound("no such file any more")
        return _response(request, first, parts)
    except BaseException:
        await parts.aclose()
        raise


def _response(
    request: Request, first: inference_pb2.ReadArtifactResponse, parts: Parts
) -> Response:
    artifact = first.artifact
    etag = f'"{artifact.sha256}"'
    headers = _headers(artifact, etag)
    if request.headers.get("if-none-match") in (etag, "*"):
        return _FileResponse(304, headers, None, first, parts)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        wanted = None
    try:
        part = parse_range(wanted, artifact.size_bytes)
    except RangeNotSatisfiable:
        headers["content-range"] = f"bytes */{artifact.size_bytes}"
        return _FileResponse(416, headers, None, first, parts)
    if part is not None:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{artifact.size_bytes}"
    span = part or ByteRange(0, artifact.size_bytes)
    headers["content-length"] = str(span.stop - span.start)
    if request.method == "HEAD":
        return _FileResponse(200 if part is None else 206, headers, None, first, parts)
    return _FileResponse(200 if part is None else 206, headers, span, first, parts)


def _headers(artifact: types_pb2.Artifact, etag: str) -> dict[str, str]:
    return {
        "content-type": artifact.content_type or "application/octet-stream",
        "content-disposition": f"inline; filename*=UTF-8''{quote(artifact.name, safe='')}",
        "accept-ranges": "bytes",
        "etag": etag,
        # A link names one file of one request: what it leads to never changes.
        "cache-control": "private, max-age=86400, immutable",
        # Whatever a model wrote, it is no page of ours.
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
    }


class _FileResponse(Response):
    """Sends `span` of the file, or no body; an early end shows in the length that was promised."""

    def __init__(
        self,
        status: int,
        headers: dict[str, str],
        span: ByteRange | None,
        first: inference_pb2.ReadArtifactResponse,
        parts: Parts,
    ) -> None:
        super().__init__(None, status, headers)
        self._span = span
        self._first = first
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self._send(send))
        finally:
            await self._parts.aclose()

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        if self._span is not None:
            await self._send_span(send, self._span)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_span(self, send: Send, span: ByteRange) -> None:
        """Raises ArtifactCorrupt, and then the file's last piece was not sent."""
        artifact = self._first.artifact
        offset = 0
        data: bytes | None = self._first.data
        while offset < span.stop:
            if data is None:
                raise ArtifactCorrupt(f"{artifact.uri} ended after {offset} bytes")
            piece = data[max(0, span.start - offset) : max(0, span.stop - offset)]
            offset += len(data)
            following = None
            # The digest is compared at the end of the whole file: its last piece waits for that.
            if offset < span.stop or span.stop == artifact.size_bytes:
                following = await anext(self._parts, None)
            if piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            data = None if following is None else following.data


ROUTES = [Route("/files/{signature}/{request_id}/{name:path}", read_file, methods=["GET", "HEAD"])]
