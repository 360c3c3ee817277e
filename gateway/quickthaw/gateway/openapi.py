"""The gateway's own OpenAPI document: every route, whatever the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quickthaw.gateway.bringing import bringing_paths
from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.deployments import deployment_paths
from quickthaw.gateway.fal.document import fal_paths
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.openai.document import PROBLEM as OPENAI_ERROR
from quickthaw.gateway.openai.document import openai_paths
from quickthaw.gateway.replicate.document import PROBLEM, replicate_paths
from quickthaw.gateway.respond import json_response

_ERRORS: Final = {
    "400": "Something else than an argument is wrong with the call.",
    "401": "No key, or an unknown one.",
    "402": "The tenant's budget is spent.",
    "403": "The key lacks the scope.",
    "404": "No such endpoint or request of this tenant.",
    "408": "The body took too long to arrive.",
    "413": "The body, or the arguments in it, are too large.",
    "422": "An argument is missing or wrong; `detail` is a list with `loc`, `msg` and `type`.",
    "429": "The queue is full; `Retry-After` says when to try again.",
    "499": "The request was cancelled.",
    "500": "The model or the platform failed.",
    "503": "No worker or scheduler can take it now.",
    "504": "The caller's start timeout, or the longest allowed run, has passed.",
}


def gateway_document(public_url: str) -> JsonObject:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Quickthaw",
            "version": "1.0.0",
            "description": "Models on your own GPUs, by fal's, OpenAI's and Replicate's APIs. "
            "Each model has a document of its own: "
            "`/api/openapi/queue/openapi.json?endpoint_id=OWNER/NAME`.",
        },
        "servers": [{"url": public_url}],
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Key <key>` or `Bearer <key>`",
                }
            },
            "schemas": {
                "Arguments": {"type": "object"},
                "Error": _ERROR,
                "OpenAIError": OPENAI_ERROR,
                "Problem": PROBLEM,
            },
        },
        "tags": [{"name": name} for name in _TAGS],
        "paths": _tagged(
            {
                **_run_paths(),
                **_queue_paths(),
                **_open_paths(),
                **_webhook_paths(),
                **replicate_paths(),
                **fal_paths(),
                **openai_paths(),
                **deployment_paths(),
                **bringing_paths(),
            }
        ),
    }


_TAGS: Final = {
    "Run": ("/run/",),
    "Queue": ("/queue/",),
    "Models": ("/v1/models", "/api/openapi/"),
    "Your own models": ("/v1/deployments", "/v1/endpoints/"),
    "Files": ("/cdn/", "/files/", "/rest/storage/", "/v1/inputs/", "/v1/files/"),
    "OpenAI": ("/openai/",),
    "Replicate": ("/replicate/",),
    "Around": ("/",),
}
"""How a reader of the document finds a route among all: by how its path begins, the first that
does."""


def _tagged(paths: JsonObject) -> JsonObject:
    tagged: dict[str, Json] = {}
    for path, operations in paths.items():
        tag = next(name for name, begins in _TAGS.items() if path.startswith(begins))
        assert isinstance(operations, Mapping)
        tagged[path] = {
            method: {"tags": [tag], **operation} if isinstance(operation, Mapping) else operation
            for method, operation in operations.items()
        }
    return tagged


_ERROR: JsonObject = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
        "error_type": {"type": "string"},
    },
}
_OWNER_NAME: Sequence[Json] = [
    {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"},
    }
    for name in ("owner", "name")
]
_REQUEST_ID: JsonObject = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "maxLength": 128},
}
_LOGS: JsonObject = {
    "name": "logs",
    "in": "query",
    "schema": {"type": "string", "enum": ["true", "false", "1", "0"]},
}
_HEADERS: Sequence[Json] = [
    {
        "name": "X-Fal-Request-Timeout",
        "in": "header",
        "description": "Seconds until a worker must have begun.",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Fal-Queue-Priority",
        "in": "header",
        "schema": {"type": "string", "enum": ["normal", "low"]},
    },
    {
        "name": "X-Fal-Runner-Hint",
        "in": "header",
        "description": "A worker to prefer.",
        "schema": {"type": "string", "maxLength": 200},
    },
    {
        "name": "X-Fal-No-Retry",
        "in": "header",
        "description": "The loss of its worker ends the request.",
        "schema": {"type": "string", "enum": ["1", "true", "yes"]},
    },
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key with the same call is the same request, and its answer.",
        "schema": {"type": "string", "maxLength": 128},
    },
]
_SUBMIT_QUERY: Sequence[Json] = [
    {
        "name": "fal_webhook",
        "in": "query",
        "description": "A URL that is told of the end.",
        "schema": {"type": "string", "maxLength": 2000},
    },
    {
        "name": "fal_max_queue_length",
        "in": "query",
        "description": "Refuse (429) if more requests of the model wait.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000000},
    },
]
_BODY: JsonObject = {
    "description": "The model's arguments.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Arguments"}}},
}


def _operation(
    summary: str,
    answers: dict[str, str],
    *,
    parameters: Sequence[Json] = (),
    body: bool = False,
    media_type: str = "application/json",
    open_to_all: bool = False,
) -> JsonObject:
    responses: JsonObject = {
        status: {"description": text, "content": {media_type: {}}}
        for status, text in answers.items()
    }
    responses |= {
        status: {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status, text in _ERRORS.items()
        if status not in answers
    }
    operation: JsonObject = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = list(parameters)
    if body:
        operation["requestBody"] = _BODY
    if open_to_all:
        operation["security"] = []
    return operation


def _run_paths() -> JsonObject:
    parameters = [*_OWNER_NAME, *_HEADERS]
    run = _operation(
        "Run a model and wait for its output.",
        {"200": "The model's output."},
        parameters=parameters,
        body=True,
    )
    stream = _operation(
        "Run a model and receive previews until the output.",
        {"200": "Server-sent events; the last one is the output."},
        parameters=parameters,
        body=True,
        media_type="text/event-stream",
    )
    return {"/run/{owner}/{name}": {"post": run}, "/run/{owner}/{name}/stream": {"post": stream}}


def _queue_paths() -> JsonObject:
    root = "/queue/{owner}/{name}/requests/{request_id}"
    named = [*_OWNER_NAME, _REQUEST_ID]
    submit = _operation(
        "Queue a request.",
        {"200": "Its id and its URLs."},
        parameters=[*_OWNER_NAME, *_HEADERS, *_SUBMIT_QUERY],
        body=True,
    )
    status = _operation(
        "The state of a request.",
        {"200": "It has ended.", "202": "It waits or runs."},
        parameters=[*named, _LOGS],
    )
    events = _operation(
        "The states of a request until it has ended.",
        {"200": "Server-sent events, each a status."},
        parameters=[*named, _LOGS],
        media_type="text/event-stream",
    )
    cancel = _operation(
        "Cancel a request in any state.",
        {
            "202": "It will be cancelled.",
            "400": "It had ended.",
            "404": "No such request of this tenant.",
        },
        parameters=named,
    )
    result = _operation(
        "The output of a request that has ended.", {"200": "The model's output."}, parameters=named
    )
    return {
        "/queue/{owner}/{name}": {"post": submit},
        f"{root}/status": {"get": status},
        f"{root}/status/stream": {"get": events},
        f"{root}/cancel": {"put": cancel},
        root: {"get": result},
    }


def _open_paths() -> JsonObject:
    link: Sequence[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("signature", "request_id", "name")
    ]
    file = _operation(
        "A stored file, whole or one range of it.",
        {
            "200": "All of it.",
            "206": "A range.",
            "304": "It is the one you have.",
            "416": "The range begins behind the end.",
        },
        parameters=link,
        media_type="*/*",
        open_to_all=True,
    )
    live = _operation("Whether the process lives.", {"200": "It does."}, open_to_all=True)
    ready = _operation(
        "Whether it can serve requests.", {"200": "Yes.", "503": "No."}, open_to_all=True
    )
    schema = _operation(
        "One endpoint's own document.",
        {"200": "OpenAPI 3.0."},
        parameters=[
            {
                "name": "endpoint_id",
                "in": "query",
                "required": True,
                "schema": {"type": "string", "maxLength": 200},
            }
        ],
    )
    return {
        "/files/{signature}/{request_id}/{name}": {"get": file},
        "/health": {"get": live},
        "/health/live": {"get": live},
        "/health/ready": {"get": ready},
        "/api/openapi/queue/openapi.json": {"get": schema},
    }


def _webhook_paths() -> JsonObject:
    keys = _operation(
        "The public keys that fal-style webhooks are signed with.",
        {"200": "A JSON Web Key Set.", "503": "This gateway signs none."},
        open_to_all=True,
    )
    return {"/.well-known/jwks.json": {"get": keys}, "/rest/.well-known/jwks.json": {"get": keys}}


async def document(request: Request) -> Response:
    return json_response(gateway_document(gateway_of(request).public_url))


ROUTES = [Route("/openapi.json", document, methods=["GET"])]
