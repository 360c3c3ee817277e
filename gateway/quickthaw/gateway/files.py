"""`/files/...`: a stored file for the holder of its link, without a key, whole or in part.

Two kinds of link: `/files/<signature>/<request id>/<name>` leads to what a model made, by way of
the scheduler, and `/files/<file id>/<name>` to what a caller brought, read from the blob store.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.file_response import FileFacts, file_response
from quickthaw.gateway.ranges import ByteRange
from quickthaw.gateway.storage import StoredFile, no_such_file
from quickthaw.v1 import inference_pb2
from quickthaw.wire.errors import ArtifactCorrupt, ArtifactNotFound, QuickthawError

CACHED_SECONDS_MAX = 86400

Parts = AsyncGenerator[inference_pb2.ReadArtifactResponse, None]


async def read_artifact(request: Request) -> Response:
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
    except BaseException:
        await parts.aclose()
        raise
    artifact = first.artifact
    facts = FileFacts(
        artifact.name, artifact.content_type, artifact.size_bytes, f'"{artifact.sha256}"'
    )
    return file_response(request, facts, lambda span: _span(first, parts, span), parts.aclose)


async def _span(
    first: inference_pb2.ReadArtifactResponse, parts: Parts, span: ByteRange
) -> AsyncGenerator[bytes, None]:
    """Raises ArtifactCorrupt, and then the file's last piece was not given."""
    artifact = first.artifact
    offset = 0
    data: bytes | None = first.data
    while offset < span.stop:
        if data is None:
            raise ArtifactCorrupt(f"{artifact.uri} ended after {offset} bytes")
        piece = data[max(0, span.start - offset) : max(0, span.stop - offset)]
        offset += len(data)
        following = None
        # The digest is compared at the end of the whole file: its last piece waits for that.
        if offset < span.stop or span.stop == artifact.size_bytes:
            following = await anext(parts, None)
        if piece:
            yield piece
        data = None if following is None else following.data


async def read_upload(request: Request) -> Response:
    """Raises ArtifactNotFound, and HttpError 403 for a file that is kept from this caller."""
    gateway = gateway_of(request)
    stored = await find_upload(gateway, request.path_params["file_id"])
    await _check_may_read(request, gateway, stored)
    uploads = gateway.stored_uploads
    left = CACHED_SECONDS_MAX
    if stored.expires_seconds is not None:
        left = min(left, int(stored.expires_seconds - uploads.now()))
    etag = f'"{stored.sha256 or stored.file_id}"'
    facts = FileFacts(stored.name, stored.content_type, stored.size_bytes, etag, left)
    return file_response(request, facts, lambda span: uploads.read(stored, span))


async def find_upload(gateway: Gateway, file_id: str) -> StoredFile:
    """Raises ArtifactNotFound."""
    if gateway.uploads is None:
        raise ArtifactNotFound("there is no such file: this gateway keeps none")
    return await gateway.uploads.find(file_id)


async def _check_may_read(request: Request, gateway: Gateway, stored: StoredFile) -> None:
    if stored.lifecycle.open_to_all:
        return
    tenant = ""
    if request.headers.get("authorization"):
        try:
            tenant = await gateway.platform.tenant(read_credential(request.headers))
        except QuickthawError:
            tenant = ""  # A key that is no good is as good as none.
    match "allow" if tenant == stored.tenant else stored.lifecycle.decision(tenant):
        case "allow":
            return
        case "forbid":
            raise HttpError(403, "this file is kept for others", "auth_error")
        case "hide":
            raise no_such_file()


ROUTES = [
    Route(f"{surface}/{rest}", handler, methods=["GET", "HEAD"])
    for surface in ("/files", "/cdn/files")
    for rest, handler in (
        ("{signature}/{request_id}/{name:path}", read_artifact),
        ("{file_id}/{name}", read_upload),
        ("{file_id}", read_upload),
    )
]
