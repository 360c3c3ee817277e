"""`GET /v1/models`: the catalog as fal's platform API lists, finds and searches it.

fal serves it at `api.fal.ai`. Endpoints that are named are told of without a key, as their
documents are; a list of what there is needs one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.endpoints import Entry, Served, listed
from quickthaw.gateway.fal.looking_up import look_up
from quickthaw.gateway.fal.schema import endpoint_document
from quickthaw.gateway.ids import ID_CHARS_MAX, EndpointId, parse_endpoint_id
from quickthaw.gateway.json_text import Json, JsonObject, object_or_empty
from quickthaw.gateway.media import category_of
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.respond import json_response
from quickthaw.wire.errors import ModelNotFound, Unauthenticated

PATH: Final = "/v1/models"
PAGE_SIZE: Final = 50
PAGE_SIZE_MAX: Final = 100
IDS_MAX: Final = 50
KEYLESS_IDS_MAX: Final = 5
"""Each is a question to the scheduler, which a stranger must not multiply."""
QUERY_CHARS_MAX: Final = 500
_DOCUMENT: Final = "openapi-3.0"
EXPANSIONS: Final = (_DOCUMENT, "enterprise_status")
"""The second is understood, and nothing here has one."""
_STATUSES: Final = ("active", "deprecated")


@dataclass(frozen=True, slots=True)
class Wanted:
    ids: Sequence[EndpointId]
    """Empty for all."""
    words: Sequence[str]
    """Each of them in an endpoint's id, names, description or category; lower case."""
    category: str
    deprecated: bool
    documents: bool
    after: str
    """The last endpoint of the page before; empty for the first page."""
    size: int


async def list_models(request: Request) -> Response:
    wanted = _read(request.query_params)
    entries = await _named(request, wanted) if wanted.ids else await _all(request)
    shown = [
        each
        for each in entries
        if each.id > wanted.after
        and wanted.category in ("", each.category)
        and _has(each, wanted.words)
        and not wanted.deprecated  # Nothing here is: what is taken out of the catalog is gone.
    ]
    page = shown[: wanted.size]
    following = _cursor(page[-1].id) if len(shown) > wanted.size else None
    public_url = gateway_of(request).public_url
    models: list[Json] = [_model(each, public_url, wanted) for each in page]
    return json_response(
        {"models": models, "next_cursor": following, "has_more": following is not None}
    )


def _has(entry: Entry, words: Sequence[str]) -> bool:
    if not words:
        return True
    names = (entry.id, *entry.model.aliases, entry.model.description, entry.category)
    text = " ".join(names).lower()
    return all(word in text for word in words)


async def _named(request: Request, wanted: Wanted) -> list[Entry]:
    """In the order of their ids. Raises ModelNotFound if there is none of them, Unauthenticated for
    too many without a key."""
    if len(wanted.ids) > KEYLESS_IDS_MAX and not read_credential(request.headers):
        raise Unauthenticated(f"endpoint_id: send a key to name more than {KEYLESS_IDS_MAX}")
    entries: list[Entry] = []
    unknown: ModelNotFound | None = None
    for endpoint in wanted.ids:
        try:
            found = await look_up(request, endpoint)
            category = category_of(found.schema, found.wanted)
            entries.append(Entry(endpoint.full, found.model, category, found.wanted))
        except ModelNotFound as error:
            unknown = error
    if not entries and unknown is not None:
        raise unknown
    return sorted(entries, key=lambda each: each.id)


async def _all(request: Request) -> list[Entry]:
    """What the caller may call, in the order of the ids."""
    credential: Credential = read_credential(request.headers)
    return listed(await gateway_of(request).platform.listed_models(credential))


def _model(entry: Entry, public_url: str, wanted: Wanted) -> JsonObject:
    model, endpoint = entry.model, parse_endpoint_id(entry.id)
    registered = datetime.fromtimestamp(model.registered_unix_ms / 1000, UTC)
    since = registered.isoformat(timespec="seconds").replace("+00:00", "Z")
    metadata: JsonObject = {
        "display_name": entry.id.partition("/")[2],
        "category": entry.category,
        "description": model.description,
        "status": "active",
        "tags": [model.family] if model.family else [],
        "updated_at": since,
        "date": since,
        "is_favorited": False,
        "thumbnail_url": "",
        "model_url": f"{public_url}/run/{entry.id}",
        "highlighted": False,
        "pinned": False,
    }
    document: JsonObject = {}
    if wanted.documents:
        schema = object_or_empty(model.input_schema_json)
        document = {
            "openapi": endpoint_document(
                endpoint, Served(endpoint, model, schema, entry.wanted), public_url
            )
        }
    return {"endpoint_id": entry.id, "metadata": metadata, **document}


def _read(query: QueryParams) -> Wanted:
    """Raises HttpError 400, naming the parameter, and 404 for what can be no endpoint."""
    expand = _split(query.getlist("expand"))
    if unknown := [each for each in expand if each not in EXPANSIONS]:
        raise wrong_parameter("expand", f"{unknown[0]!r:.40} is none of {', '.join(EXPANSIONS)}")
    status = query.get("status", "active")
    if status not in _STATUSES:
        raise wrong_parameter("status", f"{status!r:.40} is none of {', '.join(_STATUSES)}")
    return Wanted(
        ids=named_endpoints(query),
        words=query.get("q", "").lower()[:QUERY_CHARS_MAX].split(),
        category=query.get("category", ""),
        deprecated=status == "deprecated",
        documents=_DOCUMENT in expand,
        after=_after(query.get("cursor", "")),
        size=_size(query.get("limit")),
    )


def named_endpoints(query: QueryParams) -> list[EndpointId]:
    """Raises HttpError 400 for too many, and 404 for what can be no endpoint."""
    ids = _split(query.getlist("endpoint_id"))
    if len(ids) > IDS_MAX:
        raise wrong_parameter("endpoint_id", f"name at most {IDS_MAX} endpoints, not {len(ids)}")
    return [parse_endpoint_id(each) for each in dict.fromkeys(ids)]


def _split(values: Sequence[str]) -> list[str]:
    """Those of a parameter that is repeated, or has commas."""
    return [part for value in values for part in value.split(",") if part]


def _size(text: str | None) -> int:
    if text is None:
        return PAGE_SIZE
    if not (text.isascii() and text.isdecimal()) or int(text[:9]) < 1:
        raise wrong_parameter("limit", "give a whole number from 1 on")
    return min(int(text[:9]), PAGE_SIZE_MAX)


def _cursor(endpoint: str) -> str:
    return base64.urlsafe_b64encode(endpoint.encode()).decode()


def _after(cursor: str) -> str:
    try:
        after = base64.b64decode(cursor, b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise wrong_parameter("cursor", "give the next_cursor of the page before") from error
    if len(after) > ID_CHARS_MAX + len("/image-to-image"):
        raise wrong_parameter("cursor", "give the next_cursor of the page before")
    return after


def wrong_parameter(name: str, message: str) -> HttpError:
    return HttpError(400, f"{name}: {message}", "bad_request")
