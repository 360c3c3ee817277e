"""Models and their versions in Replicate's words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import read_body
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.json_text import Json, JsonObject, object_or_empty
from quickthaw.gateway.media import Medium, medium_of
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.replicate.names import find_model, replicate_name, version_id
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.schemas import openapi_schema, schema_properties
from quickthaw.v1 import catalog_pb2, catalog_pb2_grpc, types_pb2

if TYPE_CHECKING:
    # The generated stubs' types know the asyncio channel under another name.
    from quickthaw.v1.catalog_pb2_grpc import CatalogAsyncStub

PAGE_SIZE = 100
SEARCH_RESULTS_MAX = 20
QUERY_CHARS_MAX = 500
COG_VERSION = "0.16.0"
"""Of the packaging tool whose schemas these are like; clients ask for some version or other."""

_PUBLIC = frozenset({catalog_pb2.VISIBILITY_UNSPECIFIED, catalog_pb2.VISIBILITY_SHARED})


async def list_models(request: Request) -> Response:
    gateway = gateway_of(request)
    credential = read_credential(request.headers)
    models = await gateway.platform.listed_models(credential)
    after = request.query_params.get("cursor", "")
    rest = [model for model in models if model.id > after]
    following = rest[PAGE_SIZE - 1].id if len(rest) > PAGE_SIZE else None
    results = await _models_json(gateway, credential, rest[:PAGE_SIZE])
    return json_response(page(gateway, "models", results, following))


async def search_models(request: Request) -> Response:
    """`QUERY`: the words as they are, or as a JSON string in quotes."""
    gateway = gateway_of(request)
    body = (await read_body(request, gateway.limits)).decode(errors="replace").strip()
    words = body.strip('"').lower()[:QUERY_CHARS_MAX].split()
    credential = read_credential(request.headers)
    models = await gateway.platform.listed_models(credential)
    found = [
        model
        for model in models
        if all(
            word in f"{model.id} {' '.join(model.aliases)} {model.description}".lower()
            for word in words
        )
    ]
    results = await _models_json(gateway, credential, found[:SEARCH_RESULTS_MAX])
    return json_response(page(gateway, "models", results, None))


async def get_model(request: Request) -> Response:
    gateway, credential = gateway_of(request), read_credential(request.headers)
    (model,) = await _models_json(gateway, credential, [await _model(request)])
    return json_response(model)


async def list_versions(request: Request) -> Response:
    versions = [version_json(each) for each in await _versions(request)]
    return json_response(page(gateway_of(request), "", versions, None))


async def get_version(request: Request) -> Response:
    wanted = request.path_params["version"]
    for each in await _versions(request):
        if version_id(each.id, each.snapshot_digest) == wanted:
            return json_response(version_json(each))
    raise HttpError(404, "there is no such version, or there never was one")


async def _versions(request: Request) -> list[catalog_pb2.Model]:
    """What a model has been, newest first."""
    gateway, credential = gateway_of(request), read_credential(request.headers)
    now = await _model(request)
    message = catalog_pb2.ListVersionsRequest(model=now.id, page=types_pb2.Page(size=PAGE_SIZE))
    stub: CatalogAsyncStub = catalog_pb2_grpc.CatalogStub(gateway.platform.channel)
    answer: catalog_pb2.ListVersionsResponse = await gateway.platform.call(
        credential, stub.ListVersions, message
    )
    return [each.model for each in answer.versions]


def page(gateway: Gateway, path: str, results: Sequence[Json], following: str | None) -> JsonObject:
    """`following`: the cursor of the next page."""
    base = f"{gateway.public_url}/replicate/v1/{path}"
    return {
        "next": None if following is None else f"{base}?cursor={quote(following, safe='')}",
        "previous": None,
        "results": list(results),
    }


async def _models_json(
    gateway: Gateway, credential: Credential, models: Sequence[catalog_pb2.Model]
) -> list[JsonObject]:
    usage = await gateway.past_usage.by_model(credential)
    return [
        _model_json(gateway, each, usage[each.id].requests if each.id in usage else 0)
        for each in models
    ]


def _model_json(gateway: Gateway, model: catalog_pb2.Model, run_count: int) -> JsonObject:
    """`run_count`: the caller's tenant's own; what others run is nobody's business."""
    name = replicate_name(model.id)
    owner, _, rest = name.partition("/")
    return {
        "url": f"{gateway.public_url}/replicate/v1/models/{name}",
        "owner": owner,
        "name": rest,
        "description": model.description,
        "visibility": "public" if model.visibility in _PUBLIC else "private",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": run_count,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version_json(model),
    }


def version_json(model: catalog_pb2.Model) -> JsonObject:
    schema = object_or_empty(model.input_schema_json)
    properties: JsonObject = {}
    for order, (name, declared) in enumerate(schema_properties(schema).items()):
        converted = openapi_schema(declared)
        known = dict(converted) if isinstance(converted, dict) else {}
        properties[name] = {"title": name.replace("_", " ").title(), **known, "x-order": order}
    required = schema.get("required")
    input_: JsonObject = {
        "type": "object",
        "title": "Input",
        "required": list(required) if isinstance(required, list) else [],
        "properties": properties,
    }
    file: JsonObject = {"type": "string", "format": "uri"}
    # No `x-cog-array-type`: with it a client would make a generator of the result.
    pictures: JsonObject = {"type": "array", "items": file}
    one = medium_of(schema_properties(schema)) is not Medium.IMAGE
    output: JsonObject = {"title": "Output", **(file if one else pictures)}
    return {
        "id": version_id(model.id, model.snapshot_digest),
        "created_at": iso(model.registered_unix_ms),
        "cog_version": COG_VERSION,
        "openapi_schema": {
            "openapi": "3.0.2",
            "info": {"title": "Quickthaw", "version": "0.1.0"},
            "paths": {},
            "components": {"schemas": {"Input": input_, "Output": output}},
        },
    }


def iso(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")


async def _model(request: Request) -> catalog_pb2.Model:
    name = f"{request.path_params['owner']}/{request.path_params['name']}"
    return await find_model(gateway_of(request), read_credential(request.headers), name)
