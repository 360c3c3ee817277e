"""The queue: submit now, ask for state, events and result later, cancel at any time."""

from __future__ import annotations

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.fal.calls import read_call
from quickthaw.gateway.fal.ended import failed_answer
from quickthaw.gateway.fal.output import output_object
from quickthaw.gateway.fal.status import (
    Stage,
    finished_status,
    replayed_logs,
    request_urls,
    stage_of,
    unfinished_status,
)
from quickthaw.gateway.fal.status_stream import status_events
from quickthaw.gateway.follow import TERMINAL
from quickthaw.gateway.front import exchange_of
from quickthaw.gateway.ids import (
    EndpointId,
    parse_endpoint_id,
    parse_request_id,
    try_endpoint_id,
)
from quickthaw.gateway.json_text import Json, object_or_empty
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.respond import REQUEST_ID_HEADER, EventStream, json_response, runner_hints
from quickthaw.gateway.violations import found_wrong
from quickthaw.gateway.webhooks.target import webhook_target
from quickthaw.v1 import types_pb2, webhooks_pb2
from quickthaw.wire.errors import (
    ModelNotFound,
    QuickthawError,
    RequestNotFound,
)

QUEUE_LENGTH_MAX = 1_000_000
_TRUE = frozenset({"true", "1"})


async def submit(request: Request) -> Response:
    """Arguments that do not fit are accepted as well: the result, and a webhook, tell of them."""
    call = await read_call(request, as_they_are=True)
    submission = call.submission(unattended=True)
    submission.accept_invalid_input = True
    submission.found_wrong.extend(found_wrong(call.found_wrong))
    submission.model_queue_max = _queue_max(request)
    if url := request.query_params.get("fal_webhook"):
        submission.webhook.CopyFrom(
            webhook_target(call.gateway, url, webhooks_pb2.WEBHOOK_DIALECT_FAL)
        )
    try:
        accepted = await call.gateway.platform.submit(call.credential, submission)
    except QuickthawError as error:
        raise call.explain(error) from error
    exchange_of(request).request_id = accepted.request_id
    return json_response(
        {
            "status": Stage.IN_QUEUE.name,
            "request_id": accepted.request_id,
            "gateway_request_id": accepted.request_id,
            **request_urls(call.gateway, call.endpoint, accepted.request_id),
            "queue_position": max(0, accepted.queue_position),
        }
    )


async def status(request: Request) -> Response:
    """202 while it waits or runs, 200 once it has ended, however it ended."""
    gateway, endpoint, credential, found = await find_request(request)
    with_logs = wants_logs(request)
    stage = stage_of(found.state, found.attempts)
    logs: list[Json] = []
    if with_logs and stage is not Stage.IN_QUEUE:
        logs = await replayed_logs(gateway, credential, found)
    urls = request_urls(gateway, endpoint, found.request_id)
    if stage is Stage.COMPLETED:
        return json_response(finished_status(urls, found, logs))
    return json_response(
        unfinished_status(urls, found.request_id, stage, found.queue_position, logs), 202
    )


async def status_stream(request: Request) -> Response:
    gateway, endpoint, credential, found = await find_request(request)
    urls = request_urls(gateway, endpoint, found.request_id)
    events = status_events(gateway, credential, found, urls, with_logs=wants_logs(request))
    return EventStream(gateway, events, {REQUEST_ID_HEADER: found.request_id})


async def result(request: Request) -> Response:
    gateway, _, credential, found = await find_request(request)
    if found.state == types_pb2.REQUEST_STATE_SUCCEEDED:
        sync_mode = object_or_empty(found.input_json).get("sync_mode") is True
        output = await output_object(gateway, credential, found, sync_mode=sync_mode)
        return json_response(output, headers=runner_hints(found))
    if found.state in TERMINAL:
        answer = await failed_answer(gateway, credential, found)
        raise HttpError(answer.status, answer.detail, answer.error_type, answer.headers)
    # Not 202, which a client would take for the result, and nothing that it would try again on.
    raise HttpError(400, "Request is still in progress")


async def cancel(request: Request) -> Response:
    try:
        gateway, _, credential, found = await find_request(request)
        if found.state in TERMINAL:
            return _already_completed()
        state = await gateway.platform.cancel(credential, found.request_id)
    except (HttpError, RequestNotFound) as error:
        if isinstance(error, HttpError) and error.answer.status != 404:
            raise
        return json_response({"status": "NOT_FOUND"}, 404)
    if state in (types_pb2.REQUEST_STATE_SUCCEEDED, types_pb2.REQUEST_STATE_FAILED):
        return _already_completed()
    return json_response({"status": "CANCELLATION_REQUESTED"}, 202)


def _already_completed() -> Response:
    # Never 409: a client repeats that ten times.
    return json_response({"status": "ALREADY_COMPLETED"}, 400)


def _queue_max(request: Request) -> int:
    """How long the endpoint's queue may be for this request; 0 for however long."""
    text = request.query_params.get("fal_max_queue_length", "")
    if not text:
        return 0
    is_short_number = len(text) <= 12 and text.isascii() and text.isdecimal()
    if not is_short_number or not 0 < int(text) <= QUEUE_LENGTH_MAX:
        raise HttpError(
            400,
            f"fal_max_queue_length is {text[:40]!r}: give a whole number from 1 to "
            f"{QUEUE_LENGTH_MAX}",
            "bad_request",
        )
    return int(text)


def wants_logs(request: HTTPConnection) -> bool:
    return request.query_params.get("logs", "").lower() in _TRUE


async def find_request(
    request: HTTPConnection,
) -> tuple[Gateway, EndpointId, Credential, types_pb2.Request]:
    """The request of the path, which must belong to the path's app.

    Raises HttpError or RequestNotFound for an unknown one, another tenant's and another app's.
    """
    gateway = gateway_of(request)
    endpoint = parse_endpoint_id(request.path_params["endpoint"])
    request_id = parse_request_id(request.path_params["request_id"])
    exchange_of(request).request_id = request_id
    credential = read_credential(request.headers)
    found = await gateway.platform.get(credential, request_id)
    if endpoint.app not in await _apps(gateway, credential, found.model):
        raise RequestNotFound(f"no such request of {endpoint.app}: {request_id}")
    return gateway, endpoint, credential, found


async def _apps(gateway: Gateway, credential: Credential, model_id: str) -> set[str]:
    """The apps that a request of this model may be asked for under: its id's and its aliases'."""
    ids = [model_id]
    try:
        model = await gateway.platform.model(credential, model_id)
        ids += [model.id, *model.aliases]
    except ModelNotFound:
        pass  # Taken out of the catalog since; requests accepted before stay readable.
    return {endpoint.app for id_ in ids if (endpoint := try_endpoint_id(id_)) is not None}
