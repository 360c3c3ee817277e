"""What fal's webhooks say."""

from __future__ import annotations

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.fal.ended import failed_answer
from quickthaw.gateway.fal.output import output_object
from quickthaw.gateway.json_text import JsonObject, object_or_empty
from quickthaw.gateway.respond import error_body
from quickthaw.v1 import types_pb2
from quickthaw.wire.errors import ArtifactNotFound


async def webhook_body(gateway: Gateway, request: types_pb2.Request) -> JsonObject:
    """The output as the queue's result has it, or the error as the result's body."""
    ids: JsonObject = {
        "request_id": request.request_id,
        "gateway_request_id": request.request_id,
    }
    if request.state != types_pb2.REQUEST_STATE_SUCCEEDED:
        answer = await failed_answer(gateway, gateway.own_credential, request)
        return {
            **ids,
            "status": "ERROR",
            "error": f"Invalid status code: {answer.status}",
            "payload": error_body(answer, gateway.public_url),
        }
    sync_mode = object_or_empty(request.input_json).get("sync_mode") is True
    try:
        payload = await output_object(gateway, gateway.own_credential, request, sync_mode=sync_mode)
    except ArtifactNotFound as error:
        return {**ids, "status": "OK", "payload": None, "payload_error": error.message}
    return {**ids, "status": "OK", "payload": payload}
