"""`POST /openai/v1/images/...`: pictures from a prompt, whole or as they form."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.arguments import translate_arguments, with_previews
from quickthaw.gateway.artifacts import read_whole
from quickthaw.gateway.bodies import read_arguments, until_gone
from quickthaw.gateway.calls import AttendedRequest, Call, CallOptions
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.endpoints import Served, served
from quickthaw.gateway.errors import error_answer, failure_answer
from quickthaw.gateway.front import exchange_of
from quickthaw.gateway.idempotency import read_idempotency_key
from quickthaw.gateway.ids import EndpointId, parse_endpoint_id
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.media import Medium, medium_of
from quickthaw.gateway.openai.arguments import QUALITIES, Wanted, read_wanted
from quickthaw.gateway.openai.edit_form import edits_pictures, read_edit, read_variation
from quickthaw.gateway.openai.errors import error_body, invalid
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.respond import EventStream, json_response
from quickthaw.gateway.schemas import schema_properties
from quickthaw.gateway.to_end import run_to_end
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.errors import ModelNotFound
from quickthaw.wire.status import translate

GENERATION = "image_generation"
_NO_USAGE: JsonObject = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Nothing here counts tokens; the receipt, by its request id, says what a run cost."""


async def generations(request: Request) -> Response:
    gateway = gateway_of(request)
    return await _drawn(request, gateway, await read_arguments(request, gateway.limits))


async def edits(request: Request) -> Response:
    """A picture drawn over, where a mask says so or everywhere."""
    gateway = gateway_of(request)
    body = await read_edit(request, gateway)
    return await _drawn(request, gateway, body, kind="image_edit")


async def variations(request: Request) -> Response:
    """Pictures like the one that is sent."""
    gateway = gateway_of(request)
    body = await read_variation(request, gateway)
    return await _drawn(request, gateway, body, kind="image_variation")


async def _drawn(
    request: Request, gateway: Gateway, body: JsonObject, kind: str = GENERATION
) -> Response:
    """`kind`: how the events of a stream are named."""
    wanted = read_wanted(body, gateway.default_model)
    call = await _call(request, gateway, wanted)
    exchange = exchange_of(request)
    if wanted.stream:
        attended = await until_gone(request.receive, AttendedRequest.submit(call))
        exchange.request_id = attended.request_id
        headers = {"x-request-id": attended.request_id}
        events = _events(call, attended, wanted, kind)
        return EventStream(gateway, events, headers, on_end=attended.abandon, named=True)
    ended = await until_gone(request.receive, run_to_end(call, exchange))
    answer = await _answer(call, wanted, _succeeded(ended))
    return json_response(answer, headers={"x-request-id": ended.request_id})


async def _call(request: Request, gateway: Gateway, wanted: Wanted) -> Call:
    credential = read_credential(request.headers)
    found = await _model(gateway, credential, parse_endpoint_id(wanted.model), wanted)
    schema = found.schema
    properties = schema_properties(schema)
    translated = translate_arguments(wanted.arguments, schema)
    input_ = await gateway.inputs.bring(credential, translated.input, properties)
    if wanted.stream and wanted.partial_images:
        input_ = with_previews(input_, schema, wanted.partial_images)
    options = CallOptions(credential, idempotency_key=read_idempotency_key(request.headers))
    return Call(gateway, found.endpoint, options, schema, input_, sync_mode=False)


async def _model(
    gateway: Gateway, credential: Credential, endpoint: EndpointId, wanted: Wanted
) -> Served:
    """The one that is named or, for an edit, the one beside it that draws over pictures."""
    found = await served(gateway, credential, endpoint)
    if (medium := medium_of(schema_properties(found.schema))) is not Medium.IMAGE:
        told = f"{endpoint} makes {medium}, no images: ask for it by fal's or Replicate's API"
        raise invalid(told, "model", code="operation_not_supported")
    if missing := [name for name in found.wanted if name not in wanted.arguments]:
        told = f"{endpoint} draws over a picture: send one by images/edits"
        raise invalid(told, missing[0].removesuffix("_url"))
    masked = "mask_url" in wanted.arguments
    if "image_url" not in wanted.arguments or _edits(found, masked=masked):
        return found
    end = "inpainting" if masked else "image-to-image"
    try:
        beside = await served(gateway, credential, replace(endpoint, path=(*endpoint.path, end)))
    except ModelNotFound:
        beside = found
    if not _edits(beside, masked=masked):
        raise invalid(f"{endpoint} draws from text only", "model", code="operation_not_supported")
    return beside


def _edits(found: Served, *, masked: bool) -> bool:
    return edits_pictures(schema_properties(found.schema), masked=masked)


def _succeeded(finished: types_pb2.Request) -> types_pb2.Request:
    if finished.state != types_pb2.REQUEST_STATE_SUCCEEDED:
        answer = failure_answer(finished.failure)
        raise HttpError(answer.status, answer.detail, answer.error_type, answer.headers)
    return finished


async def _answer(call: Call, wanted: Wanted, finished: types_pb2.Request) -> JsonObject:
    return {
        "created": finished.finished_unix_ms // 1000,
        "data": [await _picture(call, wanted, artifact) for artifact in finished.artifacts],
        **_facts(wanted, finished),
        "quality": wanted.quality if wanted.quality in QUALITIES else None,
        "usage": _NO_USAGE,
    }


async def _picture(call: Call, wanted: Wanted, artifact: types_pb2.Artifact) -> JsonObject:
    if wanted.as_url and call.gateway.own_credential:
        return {"url": call.gateway.links.url(artifact.uri)}
    return {"b64_json": await _base64(call, artifact)}


async def _base64(call: Call, artifact: types_pb2.Artifact) -> str:
    return base64.b64encode(await read_whole(call.gateway, call.credential, artifact.uri)).decode()


def _facts(wanted: Wanted, finished: types_pb2.Request | None) -> JsonObject:
    """What was made, where that is known better than what was asked for."""
    size, output_format = wanted.size, wanted.output_format
    if finished is not None and finished.artifacts:
        first = finished.artifacts[0]
        size = f"{first.width}x{first.height}"
        output_format = first.content_type.partition("/")[2]
    facts: JsonObject = {
        "size": size,
        "output_format": output_format,
        "quality": wanted.quality,
        "background": "opaque",
    }
    if wanted.safety_identifier:
        facts["safety_identifier"] = wanted.safety_identifier
    return facts


async def _events(
    call: Call, attended: AttendedRequest, wanted: Wanted, kind: str
) -> AsyncGenerator[JsonObject, None]:
    """At most so many previews of the first picture, then each picture whole."""
    sent = 0
    events = attended.events()
    try:
        async for event in events:
            match event.WhichOneof("kind"):
                case "preview" if sent < wanted.partial_images:
                    if event.preview.image_index == 0:
                        yield _partial(wanted, event.preview, sent, kind)
                        sent += 1
                case "finished":
                    finished = _succeeded(event.finished)
                    for artifact in finished.artifacts:
                        yield await _completed(call, wanted, finished, artifact, kind)
                case _:
                    pass
    except HttpError as error:
        yield {"type": "error", **error_body(error.answer)}
    except Exception as error:
        yield {"type": "error", **error_body(error_answer(translate(error)))}
    finally:
        await events.aclose()


def _partial(wanted: Wanted, preview: inference_pb2.Preview, index: int, kind: str) -> JsonObject:
    picture: Json = base64.b64encode(preview.data).decode()
    return {
        "type": f"{kind}.partial_image",
        "b64_json": picture,
        "partial_image_index": index,
        "created_at": int(time.time()),
        **_facts(wanted, None),
        "output_format": preview.content_type.partition("/")[2],
    }


async def _completed(
    call: Call,
    wanted: Wanted,
    finished: types_pb2.Request,
    artifact: types_pb2.Artifact,
    kind: str,
) -> JsonObject:
    return {
        "type": f"{kind}.completed",
        "b64_json": await _base64(call, artifact),
        "created_at": finished.finished_unix_ms // 1000,
        **_facts(wanted, finished),
        "usage": _NO_USAGE,
    }
