"""`GET /openai/v1/models`: the catalog in OpenAI's words."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.ids import parse_endpoint_id
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.respond import json_response
from quickthaw.v1 import catalog_pb2


async def list_models(request: Request) -> Response:
    platform = gateway_of(request).platform
    found = await platform.models(read_credential(request.headers))
    return json_response({"object": "list", "data": [_model(each) for each in found]})


async def get_model(request: Request) -> Response:
    endpoint = parse_endpoint_id(request.path_params["model"])
    credential = read_credential(request.headers)
    return json_response(
        _model(await gateway_of(request).platform.model(credential, endpoint.full))
    )


def _model(model: catalog_pb2.Model) -> JsonObject:
    return {
        "id": model.id,
        "object": "model",
        "created": model.registered_unix_ms // 1000,
        "owned_by": model.id.partition("/")[0],
    }
