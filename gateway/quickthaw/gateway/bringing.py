"""`POST /v1/inputs/{id}`: the files that arguments name, brought for a call that is made elsewhere.

A caller of the gRPC API reaches no gateway with its call, and workers fetch nothing. Here its
arguments come back with each file replaced by where a worker finds it.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quickthaw.gateway.bodies import read_arguments
from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.described import Operation, described_paths
from quickthaw.gateway.endpoints import served
from quickthaw.gateway.ids import parse_endpoint_id
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.schemas import schema_properties

_PATHS: Final = ("/v1/inputs/{owner}/{name}", "/v1/inputs/{owner}/{name}/{variant}")
_ERRORS: Final = {
    "400": "Something else than an argument is wrong with the call.",
    "401": "No key, or an unknown one.",
    "403": "The key lacks the scope.",
    "404": "No such endpoint for this tenant.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "422": "A file cannot be had or used; `detail` says which argument named it.",
    "429": "The files in use leave no room; `Retry-After` says when to try again.",
    "503": "The scheduler or the blob store cannot be reached.",
}


async def bring(request: Request) -> Response:
    gateway = gateway_of(request)
    credential = read_credential(request.headers)
    endpoint = parse_endpoint_id("/".join(request.path_params.values()))
    arguments = await read_arguments(request, gateway.limits)
    found = await served(gateway, credential, endpoint)
    brought = await gateway.inputs.bring(credential, arguments, schema_properties(found.schema))
    return json_response({"input": brought})


def bringing_paths() -> dict[str, JsonObject]:
    summary = "The arguments, their files left where a worker finds them."
    operations = [Operation("post", path, summary, body="application/json") for path in _PATHS]
    return described_paths(operations, _ERRORS, "Error", "application/json")


ROUTES = [Route(path, bring, methods=["POST"]) for path in _PATHS]
