"""`/replicate/v1/predictions`: made, waited for, asked about, listed, cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import read_arguments, until_gone
from quickthaw.gateway.calls import Call, CallOptions, make_call
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.follow import TERMINAL, follow, next_event
from quickthaw.gateway.front import exchange_of
from quickthaw.gateway.idempotency import read_idempotency_key
from quickthaw.gateway.ids import parse_endpoint_id, parse_request_id
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.replicate.creating import Wanted, cancel_seconds, read_wanted, wait_seconds
from quickthaw.gateway.replicate.errors import invalid
from quickthaw.gateway.replicate.hooks import tell_on_the_way
from quickthaw.gateway.replicate.models import page
from quickthaw.gateway.replicate.names import find_model, find_version
from quickthaw.gateway.replicate.progress import Log, replayed
from quickthaw.gateway.replicate.render import Told, output_of, prediction
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.webhooks.target import webhook_target
from quickthaw.v1 import catalog_pb2, inference_pb2, types_pb2, webhooks_pb2
from quickthaw.wire.errors import (
    DeadlineExpired,
    InvalidArgument,
    QuickthawError,
    Unavailable,
)

PAGE_SIZE = 100
_NARROWING = ("created_after", "created_before", "source")
"""What the vendor's list is narrowed down by, and ours is not."""


async def create(request: Request) -> Response:
    """By version, or `owner/name`, in the body."""
    gateway, credential, wanted = await _read(request)
    if not wanted.version:
        raise invalid("version", "Field required")
    model = await find_version(gateway, credential, wanted.version)
    return await _create(request, gateway, credential, wanted, model)


async def create_of_model(request: Request) -> Response:
    gateway, credential, wanted = await _read(request)
    name = f"{request.path_params['owner']}/{request.path_params['name']}"
    model = await find_model(gateway, credential, name)
    return await _create(request, gateway, credential, wanted, model)


async def get(request: Request) -> Response:
    gateway, credential, found = await _find(request)
    return json_response(await whole(gateway, credential, found))


async def cancel(request: Request) -> Response:
    gateway, credential, found = await _find(request)
    if found.state not in TERMINAL:
        await gateway.platform.cancel(credential, found.request_id)
        found = await gateway.platform.get(credential, found.request_id)
    return json_response(await whole(gateway, credential, found))


async def list_predictions(request: Request) -> Response:
    """Newest first, without logs, and with links for files."""
    if narrowed := [name for name in _NARROWING if name in request.query_params]:
        raise invalid(
            narrowed[0], "predictions are listed newest first, and not narrowed down here"
        )
    gateway = gateway_of(request)
    credential = read_credential(request.headers)
    wanted = inference_pb2.ListRequestsRequest()
    wanted.page.size = PAGE_SIZE
    wanted.page.token = request.query_params.get("cursor", "")
    answer = await gateway.platform.list_requests(credential, wanted)
    results: list[JsonObject] = []
    for found in answer.requests:
        output = None
        if gateway.own_credential:
            output = await output_of(gateway, credential, found, inline=False)
        results.append(prediction(gateway, credential, found, Told(output=output)))
    return json_response(page(gateway, "predictions", results, answer.next_page_token or None))


async def whole(gateway: Gateway, credential: Credential, found: types_pb2.Request) -> JsonObject:
    """With its log so far and its output."""
    log = Log(0)
    if found.state not in (types_pb2.REQUEST_STATE_QUEUED, types_pb2.REQUEST_STATE_PLACED):
        log = await replayed(gateway, credential, found)
    told = Told(log.text, log.started_unix_ms, await output_of(gateway, credential, found))
    return prediction(gateway, credential, found, told)


async def _read(request: Request) -> tuple[Gateway, Credential, Wanted]:
    gateway = gateway_of(request)
    body = await read_arguments(request, gateway.limits)
    return gateway, read_credential(request.headers), read_wanted(body)


async def _create(
    request: Request,
    gateway: Gateway,
    credential: Credential,
    wanted: Wanted,
    model: catalog_pb2.Model,
) -> Response:
    wait_until = asyncio.get_running_loop().time() + wait_seconds(request.headers)
    key = read_idempotency_key(request.headers)
    options = CallOptions(credential, idempotency_key=key)
    call = await make_call(gateway, parse_endpoint_id(model.id), options, wanted.input)
    log = Log(gateway.limits.log_lines_max)
    cancel_after = cancel_seconds(request.headers)
    submitting = _submit(call, wanted, wait_until, cancel_after)
    accepted = await until_gone(request.receive, submitting)
    request_id = accepted.request_id
    exchange_of(request).request_id = request_id
    told_already = accepted.deduplicated or not wanted.webhook
    if not told_already and wanted.events != ("completed",):
        tell_on_the_way(gateway, credential, request_id, wanted.webhook, wanted.events)
    found: types_pb2.Request | None = None
    if accepted.HasField("ended"):
        found = accepted.ended
        for event in accepted.events:
            log.take(event)
    elif (seconds := _left(wait_until)) > 0:
        waiting = _wait(gateway, credential, request_id, seconds, log)
        found = await until_gone(request.receive, waiting)
    if found is not None:
        output = await output_of(gateway, credential, found)
        told = Told(log.text, log.started_unix_ms, output)
        return json_response(prediction(gateway, credential, found, told), 201)
    found = await gateway.platform.get(credential, request_id)
    if found.state in TERMINAL:
        return json_response(await whole(gateway, credential, found), 201)
    # Whatever it does by now: both clients take any other word in this answer for the end, and its
    # missing output for the result.
    return json_response(prediction(gateway, credential, found, Told(status="starting")), 201)


async def _submit(
    call: Call, wanted: Wanted, wait_until: float, cancel_after: int | None
) -> inference_pb2.SubmitResponse:
    """With the end where one call is enough to wait for it: a webhook needs the id before."""
    platform = call.gateway.platform
    deadline_unix_ms = 0 if cancel_after is None else int(1000 * (time.time() + cancel_after))
    try:
        if not wanted.webhook and (seconds := _left(wait_until)) > 0:
            # If the scheduler goes away meanwhile, once more in the way that outlives it.
            with contextlib.suppress(Unavailable):
                submission = _submission(call, deadline_unix_ms)
                return await platform.submit_and_wait(call.credential, submission, seconds)
        submission = _submission(call, deadline_unix_ms)
        if wanted.webhook:
            target = webhook_target(
                call.gateway, wanted.webhook, webhooks_pb2.WEBHOOK_DIALECT_REPLICATE, wanted.events
            )
            if "completed" in wanted.events:
                submission.webhook.CopyFrom(target)
        return await platform.submit(call.credential, submission)
    except QuickthawError as error:
        raise _refusal(call, error) from error


def _submission(call: Call, deadline_unix_ms: int) -> inference_pb2.SubmitRequest:
    submission = call.submission()
    submission.deadline_unix_ms = deadline_unix_ms
    return submission


def _refusal(call: Call, error: QuickthawError) -> Exception:
    """In the words of the field at fault, where that is none of the model's inputs."""
    match error:
        case DeadlineExpired():
            return invalid("Cancel-After", error.message)
        case InvalidArgument() if any(
            each.field.startswith("webhook") for each in error.violations
        ):
            return invalid("webhook", error.message)
        case _:
            return call.explain(error)


def _left(until: float) -> float:
    return until - asyncio.get_running_loop().time()


async def _wait(
    gateway: Gateway, credential: Credential, request_id: str, seconds: float, log: Log
) -> types_pb2.Request | None:
    """Until the prediction ends, or None if the time is over; `log` takes what happens."""
    events = follow(gateway.platform, credential, request_id)
    try:
        async with asyncio.timeout(seconds):
            while (event := await next_event(events)) is not None:
                log.take(event)
                if event.HasField("finished"):
                    return event.finished
    except TimeoutError:
        pass
    finally:
        await events.aclose()
    return None


async def _find(request: Request) -> tuple[Gateway, Credential, types_pb2.Request]:
    gateway = gateway_of(request)
    credential = read_credential(request.headers)
    try:
        request_id = parse_request_id(request.path_params["prediction"])
    except HttpError as error:
        raise HttpError(404, "there is no such prediction", "not_found") from error
    exchange_of(request).request_id = request_id
    return gateway, credential, await gateway.platform.get(credential, request_id)
