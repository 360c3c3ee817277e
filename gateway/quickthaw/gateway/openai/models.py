"""`GET /openai/v1/models`: the catalog in OpenAI's words."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.endpoints import listed, served
from quickthaw.gateway.ids import parse_endpoint_id
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.respond import json_response
from quickthaw.v1 import catalog_pb2


async def list_models(request: Request) -> Response:
    models = await gateway_of(request).platform.listed_models(read_credential(request.headers))
    data = [_model(each.id, each.model) for each in listed(models)]
    return json_response({"object": "list", "data": data})


async def get_model(request: Request) -> Response:
    gateway = gateway_of(request)
    endpoint = parse_endpoint_id(request.path_params["model"])
    found = await served(gateway, read_credential(request.headers), endpoint)
    return json_response(_model(found.listed_id, found.model))


def _model(listed_id: str, model: catalog_pb2.Model) -> JsonObject:
    return {
        "id": listed_id,
        "object": "model",
        "created": model.registered_unix_ms // 1000,
        "owned_by": listed_id.partition("/")[0],
    }
