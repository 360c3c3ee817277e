"""`/replicate/v1/files`: what callers bring for their inputs, in the gateway's store of uploads.

Beside a file lies what only these clients ask for: the caller's metadata, and an MD5.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import body_pieces
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.replicate.errors import invalid
from quickthaw.gateway.replicate.models import iso, page
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.storage import (
    QuotaExceeded,
    StoredFile,
    UploadRefused,
    Uploads,
    no_such_file,
)
from quickthaw.gateway.storage.lifecycle import Lifecycle
from quickthaw.gateway.storage.names import display_name, file_url, media_type
from quickthaw.wire.errors import ArtifactNotFound

METADATA_BYTES_MAX = 16 * 1024
FORM_BYTES_MAX = 64 * 1024
"""Of a request beside its file: headers of the parts, and the metadata."""
FIELDS_MAX = 8
READ_BYTES = 256 * 1024
PAGE_SIZE = 100
NOTE = "replicate.json"


async def create(request: Request) -> Response:
    """multipart/form-data: `content` is the file, `metadata` (a field or a part) a JSON object."""
    gateway, uploads, tenant = await _known(request)
    async with gateway.upload_places.taken(tenant):
        form = await _form(request, gateway, uploads)
        try:
            metadata = await _metadata(form)
            stored, note = await _store(uploads, tenant, gateway, form.get("content"), metadata)
        finally:
            await form.close()
    return json_response(_file_json(gateway, stored, note), 201)


async def list_files(request: Request) -> Response:
    """Newest first; only what was brought here."""
    gateway, uploads, tenant = await _known(request)
    found = sorted(await uploads.with_note(tenant, NOTE), key=_place, reverse=True)
    after = request.query_params.get("cursor", "")
    rest = [each for each in found if not after or _place(each) < after]
    shown = rest[:PAGE_SIZE]
    results = [_file_json(gateway, each, await _note(uploads, each)) for each in shown]
    following = _place(shown[-1]) if len(rest) > PAGE_SIZE else None
    return json_response(page(gateway, "files", results, following))


def _place(stored: StoredFile) -> str:
    """In the list, for whoever goes on from there when the file may be gone."""
    return f"{int(stored.created_seconds * 1000):015}-{stored.file_id}"


async def get(request: Request) -> Response:
    gateway, uploads, stored = await _find(request)
    return json_response(_file_json(gateway, stored, await _note(uploads, stored)))


async def delete(request: Request) -> Response:
    _, uploads, stored = await _find(request)
    await uploads.delete(stored.file_id)
    return Response(status_code=204)


async def _known(request: Request) -> tuple[Gateway, Uploads, str]:
    gateway = gateway_of(request)
    if gateway.uploads is None:
        raise HttpError(
            501, "this gateway keeps no files: it was started without --blob-store", "not_supported"
        )
    tenant = await gateway.platform.tenant(read_credential(request.headers))
    return gateway, gateway.uploads, tenant


async def _find(request: Request) -> tuple[Gateway, Uploads, StoredFile]:
    """Raises ArtifactNotFound, also for another tenant's."""
    gateway, uploads, tenant = await _known(request)
    stored = await uploads.find(request.path_params["file_id"])
    if stored.tenant != tenant:
        raise no_such_file()
    return gateway, uploads, stored


async def _form(request: Request, gateway: Gateway, uploads: Uploads) -> FormData:
    """Its file is spooled to disk beyond a megabyte, so it may be as large as a part of an upload
    and not as a whole one. Raises HttpError, ClientGone."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise invalid("content", "send the file as multipart/form-data")
    bytes_max = min(uploads.file_bytes_max, gateway.limits.upload_part_bytes_max)
    pieces = body_pieces(request, gateway.limits, bytes_max + FORM_BYTES_MAX)
    parser = MultiPartParser(
        request.headers,
        # An async generator in all but its declared type.
        cast("AsyncGenerator[bytes, None]", pieces),
        max_files=2,
        max_fields=FIELDS_MAX,
        max_part_size=METADATA_BYTES_MAX,
    )
    try:
        return await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise invalid("content", f"that is no form: {error}") from error


async def _metadata(form: FormData) -> JsonObject:
    given = form.get("metadata")
    if given is None:
        return {}
    text = await given.read(METADATA_BYTES_MAX + 1) if isinstance(given, UploadFile) else given
    try:
        value = cast("Json", json.loads(text)) if len(text) <= METADATA_BYTES_MAX else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise invalid(
            "metadata", f"must be a JSON object of at most {METADATA_BYTES_MAX} characters"
        )
    return value


async def _store(
    uploads: Uploads, tenant: str, gateway: Gateway, content: object, metadata: JsonObject
) -> tuple[StoredFile, JsonObject]:
    if not isinstance(content, UploadFile):
        raise invalid("content", "Field required")
    content_type = media_type(content.content_type)
    name = display_name(content.filename or "", content_type)
    lifecycle = Lifecycle(gateway.limits.upload_seconds)
    ticket = uploads.ticket(tenant, name, content_type, lifecycle)
    md5 = hashlib.md5(usedforsecurity=False)

    async def pieces() -> AsyncIterator[bytes]:
        while piece := await content.read(READ_BYTES):
            md5.update(piece)
            yield piece

    try:
        stored = await uploads.store(ticket, pieces(), content.size)
    except QuotaExceeded as error:
        raise HttpError(413, str(error), "file_too_large") from error
    except UploadRefused as error:
        raise HttpError(400, str(error), "bad_request") from error
    note: JsonObject = {"metadata": metadata, "md5": md5.hexdigest()}
    await uploads.write_note(stored, NOTE, json.dumps(note).encode())
    return stored, note


async def _note(uploads: Uploads, stored: StoredFile) -> JsonObject:
    """Empty for a file that came another way."""
    try:
        return cast("JsonObject", json.loads(await uploads.read_note(stored, NOTE)))
    except ArtifactNotFound:
        return {}


def _file_json(gateway: Gateway, stored: StoredFile, note: JsonObject) -> JsonObject:
    expires = stored.expires_seconds
    return {
        "id": stored.file_id,
        "name": stored.name,
        "content_type": stored.content_type,
        "size": stored.size_bytes,
        "etag": stored.sha256,
        "checksums": {"sha256": stored.sha256, "md5": note.get("md5", "")},
        "metadata": note.get("metadata", {}),
        "created_at": iso(int(stored.created_seconds * 1000)),
        "expires_at": None if expires is None else iso(int(expires * 1000)),
        "urls": {"get": file_url(gateway.public_url, stored.file_id, stored.name)},
    }
