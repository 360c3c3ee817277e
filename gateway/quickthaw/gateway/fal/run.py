"""`POST /run/{id}`: the answer is the model's output, after however long that takes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import until_gone
from quickthaw.gateway.calls import Call
from quickthaw.gateway.errors import failure_answer
from quickthaw.gateway.fal.calls import read_call
from quickthaw.gateway.fal.output import output_object
from quickthaw.gateway.front import exchange_of
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.respond import REQUEST_ID_HEADER, json_response, runner_hints
from quickthaw.gateway.to_end import run_to_end
from quickthaw.v1 import types_pb2


async def run(request: Request) -> Response:
    call = await read_call(request)
    finished, output = await until_gone(request.receive, _run(request, call))
    return json_response(
        output, headers={REQUEST_ID_HEADER: finished.request_id, **runner_hints(finished)}
    )


async def _run(request: Request, call: Call) -> tuple[types_pb2.Request, JsonObject]:
    finished = await run_to_end(call, exchange_of(request))
    return finished, await output_of_success(call, finished)


async def output_of_success(call: Call, finished: types_pb2.Request) -> JsonObject:
    """Raises HttpError for a request that failed or was cancelled."""
    if finished.state != types_pb2.REQUEST_STATE_SUCCEEDED:
        answer = failure_answer(finished.failure)
        raise HttpError(answer.status, answer.detail, answer.error_type, answer.headers)
    return await output_object(call.gateway, call.credential, finished, sync_mode=call.sync_mode)
