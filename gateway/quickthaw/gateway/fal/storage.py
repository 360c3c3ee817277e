"""Uploads in every form that fal's clients have, and what they need first.

    POST /rest/storage/auth/token                     a token for the next two, and their base URL
    POST /cdn/files/upload                            a whole file
    POST /cdn/files/upload/multipart                  begins one in parts
    POST /rest/storage/upload/initiate                a URL to PUT a whole file to, without a key
    POST /rest/storage/upload/initiate-multipart      a URL below which to PUT parts, without a key
    PUT  /files/upload/{ticket}                       the bytes
    PUT  .../multipart/{ticket}/{number}              the bytes of one part
    POST .../multipart/{ticket}/complete              ends it

A ticket is sealed and holds all that is known of the file, so that any replica can go on with an
upload that another began.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import body_pieces, declared_bytes, read_arguments
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.fal.upload_seals import open_ticket, seal_ticket, seal_token, uploader
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.storage import (
    QuotaExceeded,
    StoredFile,
    Ticket,
    UploadRefused,
    Uploads,
)
from quickthaw.gateway.storage.lifecycle import Lifecycle, read_lifecycle
from quickthaw.gateway.storage.names import display_name, file_url, media_type
from quickthaw.gateway.storage.uploads import PARTS_MAX

_ETAG_CHARS_MAX: Final = 200
_LIFECYCLE_HEADERS: Final = ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference")


async def create_upload_token(request: Request) -> Response:
    gateway = gateway_of(request)
    credential = read_credential(request.headers)
    await gateway.platform.tenant(credential)  # A token of a bad key would only fail later.
    seconds = gateway.limits.upload_token_seconds
    ends = datetime.fromtimestamp(_uploads(gateway).now() + seconds, UTC)
    return json_response(
        {
            "token": seal_token(gateway, credential, seconds),
            "token_type": "Bearer",
            "base_url": f"{gateway.public_url}/cdn",
            # With the offset: a client compares it with a time that has one.
            "expires_at": ends.isoformat(timespec="seconds"),
        }
    )


async def upload_whole(request: Request) -> Response:
    gateway = gateway_of(request)
    ticket, _ = await _ticket_from_headers(request, gateway)
    stored = await _store(request, gateway, ticket)
    return json_response({"access_url": file_url(gateway.public_url, stored.file_id, stored.name)})


async def begin_multipart(request: Request) -> Response:
    gateway = gateway_of(request)
    ticket, credential = await _ticket_from_headers(request, gateway)
    seconds = gateway.limits.upload_partial_seconds
    return json_response(
        {
            "access_url": file_url(gateway.public_url, ticket.file_id, ticket.name),
            "uploadId": seal_ticket(gateway, ticket, credential, seconds),
        }
    )


async def initiate(request: Request) -> Response:
    gateway = gateway_of(request)
    return await _initiated(request, "upload", gateway.limits.upload_token_seconds)


async def initiate_multipart(request: Request) -> Response:
    gateway = gateway_of(request)
    return await _initiated(request, "multipart", gateway.limits.upload_partial_seconds)


async def put_whole(request: Request) -> Response:
    gateway = gateway_of(request)
    ticket = await _opened(gateway, request)
    given = request.headers.get("content-type")
    if given and media_type(given) != ticket.content_type:
        raise HttpError(
            400,
            f"the upload was begun as {ticket.content_type} and the file comes as "
            f"{media_type(given)}: send the same Content-Type",
            "bad_request",
        )
    stored = await _store(request, gateway, ticket)
    return json_response(
        {"file_url": file_url(gateway.public_url, stored.file_id, stored.name)},
        headers={"etag": f'"{stored.sha256}"'},
    )


async def put_part(request: Request) -> Response:
    gateway = gateway_of(request)
    ticket = await _opened(gateway, request)
    number = request.path_params["number"]
    limits = gateway.limits
    declared = declared_bytes(request, limits.upload_part_bytes_max)
    async with gateway.upload_places.taken(ticket.tenant):
        try:
            pieces = body_pieces(request, limits, limits.upload_part_bytes_max)
            tag = await _uploads(gateway).store_part(ticket, number, pieces, declared)
        except (QuotaExceeded, UploadRefused) as error:
            raise _refusal(error) from error
    etag = f'"{tag}"'
    return json_response({"partNumber": number, "etag": etag}, headers={"etag": etag})


async def complete_multipart(request: Request) -> Response:
    gateway = gateway_of(request)
    ticket = await _opened(gateway, request)
    parts = _parts(await read_arguments(request, gateway.limits))
    try:
        stored = await _uploads(gateway).complete(ticket, parts)
    except (QuotaExceeded, UploadRefused) as error:
        raise _refusal(error) from error
    url = file_url(gateway.public_url, stored.file_id, stored.name)
    return json_response({"access_url": url, "file_url": url, "file_size": stored.size_bytes})


async def _store(request: Request, gateway: Gateway, ticket: Ticket) -> StoredFile:
    limits = gateway.limits
    declared = declared_bytes(request, limits.upload_file_bytes_max)
    async with gateway.upload_places.taken(ticket.tenant):
        try:
            pieces = body_pieces(request, limits, limits.upload_file_bytes_max)
            return await _uploads(gateway).store(ticket, pieces, declared)
        except (QuotaExceeded, UploadRefused) as error:
            raise _refusal(error) from error


async def _ticket_from_headers(request: Request, gateway: Gateway) -> tuple[Ticket, Credential]:
    """And the key that it is made with."""
    uploads = _uploads(gateway)
    credential = uploader(gateway, request.headers)
    tenant = await gateway.platform.tenant(credential)
    content_type = media_type(request.headers.get("content-type"))
    name = display_name(request.headers.get("x-fal-file-name", ""), content_type)
    ticket = uploads.ticket(tenant, name, content_type, _lifecycle(request.headers, gateway))
    return ticket, credential


async def _ticket_from_body(request: Request, credential: Credential) -> Ticket:
    gateway = gateway_of(request)
    uploads = _uploads(gateway)
    tenant = await gateway.platform.tenant(credential)
    body = await read_arguments(request, gateway.limits)
    given_name, given_type = body.get("file_name"), body.get("content_type")
    content_type = media_type(given_type if isinstance(given_type, str) else None)
    name = display_name(given_name if isinstance(given_name, str) else "", content_type)
    return uploads.ticket(tenant, name, content_type, _lifecycle(request.headers, gateway))


def _lifecycle(headers: Mapping[str, str], gateway: Gateway) -> Lifecycle:
    given = next((headers[name] for name in _LIFECYCLE_HEADERS if name in headers), None)
    return read_lifecycle(given, gateway.limits.upload_seconds)


def _uploads(gateway: Gateway) -> Uploads:
    if gateway.uploads is None:
        raise HttpError(
            501,
            "this gateway keeps no files: it was started without --blob-store",
            "not_supported",
        )
    return gateway.uploads


async def _initiated(request: Request, below: str, seconds: float) -> Response:
    """A URL below `/files/` to bring a file to, without a key, within `seconds`."""
    gateway = gateway_of(request)
    credential = read_credential(request.headers)
    ticket = await _ticket_from_body(request, credential)
    sealed = seal_ticket(gateway, ticket, credential, seconds)
    return json_response(
        {
            "upload_url": f"{gateway.public_url}/files/{below}/{sealed}",
            "file_url": file_url(gateway.public_url, ticket.file_id, ticket.name),
        }
    )


async def _opened(gateway: Gateway, request: Request) -> Ticket:
    _uploads(gateway)
    return await open_ticket(gateway, request)


def _parts(body: JsonObject) -> list[tuple[int, str]]:
    given = body.get("parts")
    if not isinstance(given, list) or not 1 <= len(given) <= PARTS_MAX:
        raise _bad_parts(f"parts must be a list of 1 to {PARTS_MAX}")
    return [_part(part) for part in cast("list[Json]", given)]


def _part(value: Json) -> tuple[int, str]:
    part = value if isinstance(value, dict) else {}
    number, etag = part.get("partNumber"), part.get("etag")
    if isinstance(number, bool) or not isinstance(number, int) or not isinstance(etag, str):
        raise _bad_parts("each part has a partNumber and the etag that its upload answered")
    return number, etag[:_ETAG_CHARS_MAX].removeprefix("W/").strip('"')


def _bad_parts(what: str) -> HttpError:
    return HttpError(400, what, "bad_request")


def _refusal(error: QuotaExceeded | UploadRefused) -> HttpError:
    # A body that was not read to its end would be taken for the next request.
    headers = {"connection": "close"}
    if isinstance(error, QuotaExceeded):
        return HttpError(413, str(error), "file_too_large", headers)
    return HttpError(400, str(error), "bad_request", headers)


ROUTES = [
    Route("/rest/storage/auth/token", create_upload_token, methods=["POST"]),
    Route("/rest/storage/upload/initiate", initiate, methods=["POST"]),
    Route("/rest/storage/upload/initiate-multipart", initiate_multipart, methods=["POST"]),
    Route("/cdn/files/upload", upload_whole, methods=["POST"]),
    Route("/cdn/files/upload/multipart", begin_multipart, methods=["POST"]),
    Route("/files/upload/{ticket}", put_whole, methods=["PUT"]),
    *(
        route
        for below in ("/files", "/files/{file_id}/{name}", "/cdn/files/{file_id}/{name}")
        for route in (
            Route(f"{below}/multipart/{{ticket}}/complete", complete_multipart, methods=["POST"]),
            Route(f"{below}/multipart/{{ticket}}/{{number:int}}", put_part, methods=["PUT"]),
        )
    ),
]
