"""The rights to upload that callers carry about: tokens, and tickets for one file each.

Both hold the key that they were made with and are worth what it is worth at the moment of their
use: a key that is revoked takes them along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from starlette.requests import Request

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.sealed import SealBroken
from quickthaw.gateway.storage import Ticket
from quickthaw.wire.errors import Unauthenticated

_TOKEN: Final = "upload token"
_TICKET: Final = "upload ticket"


def seal_token(gateway: Gateway, credential: Credential, seconds: float) -> str:
    return gateway.sealer.seal(_TOKEN, {"key": credential}, seconds)


def uploader(gateway: Gateway, headers: Mapping[str, str]) -> Credential:
    """The key of who wants to upload, by a token or by itself. Raises Unauthenticated."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        try:
            return _key(gateway.sealer.unseal(_TOKEN, token.strip()))
        except SealBroken:
            if not token.strip().startswith("qt_"):
                raise Unauthenticated(
                    "the token for uploads is unknown or has expired; fetch a new one"
                ) from None
    return read_credential(headers)


def seal_ticket(gateway: Gateway, ticket: Ticket, credential: Credential, seconds: float) -> str:
    content: JsonObject = {"key": credential, "ticket": cast("JsonObject", ticket.as_json())}
    return gateway.sealer.seal(_TICKET, content, seconds)


async def open_ticket(gateway: Gateway, request: Request) -> Ticket:
    """Of the request's path. Raises HttpError 403 or 404, Unauthenticated."""
    try:
        content = gateway.sealer.unseal(_TICKET, request.path_params["ticket"])
    except SealBroken as error:
        raise HttpError(
            403, "this upload URL is incomplete or has expired; start a new upload", "auth_error"
        ) from error
    ticket = Ticket.from_json(cast("dict[str, Any]", content["ticket"]))
    file_id = request.path_params.get("file_id", ticket.file_id)
    if file_id != ticket.file_id:
        raise HttpError(404, "this upload belongs to another file", "not_found")
    await gateway.platform.tenant(_key(content))
    return ticket


def _key(content: JsonObject) -> Credential:
    return Credential(cast("str", content["key"]))
