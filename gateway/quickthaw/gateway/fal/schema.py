"""An endpoint's own OpenAPI document: what code generators and playgrounds of fal's API read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.arguments import PRESETS, SIZE_NAMES
from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.endpoints import Served
from quickthaw.gateway.fal.looking_up import look_up
from quickthaw.gateway.ids import EndpointId, parse_endpoint_id
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.media import Medium, category_of, medium_of
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.schemas import openapi_schema, required_properties, schema_properties

OPENAPI_VERSION: Final = "3.0.3"

_OUTPUT: JsonObject = {
    "timings": {"type": "object", "properties": {"inference": {"type": "number"}}},
    "seed": {"type": "integer"},
    "prompt": {"type": "string"},
    "receipt": {"type": "object", "description": "What the request cost and where it ran."},
}
_FILE: Final[JsonObject] = {
    "url": {"type": "string"},
    "content_type": {"type": "string"},
    "file_name": {"type": "string"},
    "file_size": {"type": "integer"},
}
_LORA: Final = "LoraWeight"
_SIDES: Final[JsonObject] = {"width": {"type": "integer"}, "height": {"type": "integer"}}
_LASTING: Final[JsonObject] = {"duration": {"type": "number", "description": "Seconds."}}

_FILE_SCHEMAS: Final[Mapping[Medium, tuple[str, JsonObject]]] = {
    Medium.IMAGE: ("Image", {**_FILE, **_SIDES}),
    Medium.VIDEO: ("Video", {**_FILE, **_SIDES, **_LASTING}),
    Medium.AUDIO: ("Audio", {**_FILE, **_LASTING}),
}
"""The name and the properties of a file object."""

_QUEUE_STATUS: JsonObject = {
    "type": "object",
    "required": ["status", "request_id"],
    "properties": {
        "status": {"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
        "request_id": {"type": "string"},
        "response_url": {"type": "string"},
        "status_url": {"type": "string"},
        "cancel_url": {"type": "string"},
        "queue_position": {"type": "integer"},
        "logs": {"type": "array", "items": {"type": "object"}},
        "metrics": {"type": "object"},
        "error": {"type": "string"},
        "error_type": {"type": "string", "nullable": True},
    },
}


async def queue_document(request: Request) -> Response:
    """Readable without a key where the gateway has its own and every tenant may call the model."""
    endpoint = parse_endpoint_id(request.query_params.get("endpoint_id", ""))
    found = await look_up(request, endpoint)
    return json_response(endpoint_document(endpoint, found, gateway_of(request).public_url))


def endpoint_document(endpoint: EndpointId, found: Served, public_url: str) -> JsonObject:
    """`endpoint`: the id that it was asked for by."""
    name = _pascal(endpoint.full)
    model, schema = found.model, found.schema
    medium = medium_of(schema_properties(schema))
    file_name, file_properties = _FILE_SCHEMAS[medium]
    schemas: JsonObject = {
        "QueueStatus": _ordered(_QUEUE_STATUS),
        f"{name}Input": _input_schema(schema, found.wanted),
        f"{name}Output": _output_schema(medium),
        file_name: _ordered({"type": "object", "required": ["url"], "properties": file_properties}),
        "ImageSize": _ordered(_IMAGE_SIZE),
        **_lora_schema(schema_properties(schema)),
    }
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": f"Queue OpenAPI for {endpoint}",
            "version": "1.0.0",
            "description": model.description,
            "x-fal-metadata": {
                "endpointId": endpoint.full,
                "category": category_of(schema, found.wanted),
                "thumbnailUrl": "",
                "playgroundUrl": f"{public_url}/",
                "documentationUrl": f"{public_url}/openapi.json",
            },
        },
        "servers": [{"url": f"{public_url}/queue"}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "apiKeyAuth": {"type": "apiKey", "in": "header", "name": "Authorization"}
            },
        },
        "security": [{"apiKeyAuth": []}],
        "paths": _paths(endpoint.full, name),
    }


_IMAGE_SIZE: JsonObject = {
    "type": "object",
    "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
}


def _paths(endpoint: str, name: str) -> JsonObject:
    request_id: Json = {
        "name": "request_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
    }
    root = f"/{endpoint}/requests/{{request_id}}"
    return {
        f"/{endpoint}": {
            "post": {
                "requestBody": {"required": True, "content": _content(f"{name}Input")},
                "responses": {"200": _answer("The request is queued.", "QueueStatus")},
            }
        },
        f"{root}/status": {
            "get": {
                "parameters": [
                    request_id,
                    {"name": "logs", "in": "query", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": _answer("It has ended.", "QueueStatus"),
                    "202": _answer("It waits or runs.", "QueueStatus"),
                },
            }
        },
        f"{root}/cancel": {
            "put": {
                "parameters": [request_id],
                "responses": {"202": {"description": "It will be cancelled."}},
            }
        },
        root: {
            "get": {
                "parameters": [request_id],
                "responses": {"200": _answer("The model's output.", f"{name}Output")},
            }
        },
    }


def _content(schema: str) -> JsonObject:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _answer(description: str, schema: str) -> JsonObject:
    return {"description": description, "content": _content(schema)}


def _lora_schema(properties: Mapping[str, Json]) -> JsonObject:
    """An item of `loras`, under the name that fal's documents have for it."""
    declared = properties.get("loras")
    item = declared.get("items") if isinstance(declared, Mapping) else None
    converted = openapi_schema(item) if isinstance(item, Mapping) else None
    return {_LORA: _ordered(dict(converted))} if isinstance(converted, Mapping) else {}


def _declared(name: str, declared: Json) -> Json:
    if name in SIZE_NAMES:
        return _size_schema(declared)
    converted = openapi_schema(declared)
    if name == "loras" and isinstance(converted, Mapping) and "items" in converted:
        return {**converted, "items": {"$ref": f"#/components/schemas/{_LORA}"}}
    return converted


def _input_schema(schema: Mapping[str, Json], wanted: Sequence[str]) -> JsonObject:
    properties = {
        name: _declared(name, declared) for name, declared in schema_properties(schema).items()
    }
    return _ordered(
        {
            "type": "object",
            "required": _required(schema, wanted),
            "properties": properties,
        }
    )


def _output_schema(medium: Medium) -> JsonObject:
    own = _output_properties(medium)
    return _ordered(
        {
            "type": "object",
            "required": [*own, "timings", "prompt"],
            "properties": {**own, **_OUTPUT},
        }
    )


def _output_properties(medium: Medium) -> JsonObject:
    """What of an output object is the medium's own."""
    name, _ = _FILE_SCHEMAS[medium]
    file: JsonObject = {"$ref": f"#/components/schemas/{name}"}
    match medium:
        case Medium.IMAGE:
            return {
                "images": {"type": "array", "items": file},
                "has_nsfw_concepts": {"type": "array", "items": {"type": "boolean"}},
            }
        case Medium.VIDEO:
            return {"video": file}
        case Medium.AUDIO:
            return {"audio_file": file}


def _size_schema(declared: Json) -> JsonObject:
    default = declared.get("default") if isinstance(declared, Mapping) else None
    return {
        "anyOf": [
            {"$ref": "#/components/schemas/ImageSize"},
            {"type": "string", "enum": list(PRESETS)},
        ],
        **({} if default is None else {"default": default}),
    }


def _ordered(schema: JsonObject) -> JsonObject:
    return {**schema, "x-fal-order-properties": list(schema_properties(schema))}


def _required(schema: Mapping[str, Json], wanted: Sequence[str]) -> list[Json]:
    required = required_properties(schema)
    return [*required, *(name for name in wanted if name not in required)]


def _pascal(endpoint: str) -> str:
    words = "".join(char if char.isalnum() else " " for char in endpoint).split()
    return "".join(word[:1].upper() + word[1:] for word in words)
