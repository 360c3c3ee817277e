"""A fal call on its way to the scheduler: what was asked, and the request that it became."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from starlette.requests import Request

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.bodies import read_arguments
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.fal.arguments import schema_properties, translate_arguments, with_previews
from quickthaw.gateway.fal.call_options import CallOptions, read_options
from quickthaw.gateway.fal.errors import error_answer, start_timeout_answer
from quickthaw.gateway.fal.ids import EndpointId, parse_endpoint_id
from quickthaw.gateway.fal.token_query import with_token
from quickthaw.gateway.fal.violations import schema_violations
from quickthaw.gateway.follow import Events, follow, next_event
from quickthaw.gateway.json_text import Json, JsonObject, object_or_empty, render
from quickthaw.gateway.platform import Credential
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.errors import (
    DeadlineExpired,
    InvalidInput,
    MessageTooLarge,
    ModelNotFound,
    QuickthawError,
)
from quickthaw.wire.limits import INPUT_BYTES_MAX

logger = logging.getLogger(__name__)

_WITH_PICTURES: Mapping[str, tuple[str, ...]] = {
    "image-to-image": ("image_url",),
    "inpainting": ("image_url", "mask_url"),
}
"""Ends of ids, and what calls by them must have."""
UNUSED_CHARS_MAX = 2_000
_WAITING = (types_pb2.REQUEST_STATE_UNSPECIFIED, types_pb2.REQUEST_STATE_QUEUED)


@dataclass(frozen=True, slots=True)
class Call:
    gateway: Gateway
    endpoint: EndpointId
    options: CallOptions
    schema: JsonObject
    input: JsonObject
    sync_mode: bool
    found_wrong: Sequence[Mapping[str, object]] = ()
    """What must end the request before it runs, in fal's words."""

    @property
    def credential(self) -> Credential:
        return self.options.credential

    def submission(self, *, keyed: bool = False) -> inference_pb2.SubmitRequest:
        """`keyed`: with the caller's idempotency key. Raises MessageTooLarge."""
        input_json = render(self.input)
        if len(input_json) > INPUT_BYTES_MAX:
            raise MessageTooLarge(
                f"the arguments are {len(input_json)} bytes of JSON and at most {INPUT_BYTES_MAX} "
                "are taken; send large files by URL"
            )
        return inference_pb2.SubmitRequest(
            model=self.endpoint.full,
            input_json=input_json,
            priority=self.options.priority,
            worker_hint=self.options.worker_hint,
            idempotency_key=self.options.idempotency_key if keyed else "",
            attempts_max=1 if self.options.no_retry else 0,
            io_kept_ms=int(1000 * (self.options.io_kept_seconds or 0)),
        )

    def explain(self, error: QuickthawError) -> Exception:
        """A refusal of the arguments with the kind of each violation, anything else as it is."""
        if not isinstance(error, InvalidInput):
            return error
        answer = error_answer(error, schema_violations(self.input, self.schema))
        return HttpError(answer.status, answer.detail, answer.error_type, answer.headers)


async def read_call(request: Request, *, previews: bool = False, as_they_are: bool = False) -> Call:
    """Raises HttpError, ClientGone and the platform's errors for the model and the key.

    `as_they_are`: with arguments that cannot be used, a call that says so.
    """
    gateway = gateway_of(request)
    endpoint = parse_endpoint_id(request.path_params["endpoint"])
    options = read_options(request.headers)
    if previews:  # A stream, which a page in a browser may open.
        options = with_token(gateway, options, request.query_params, endpoint)
    arguments = await read_arguments(request, gateway.limits)
    try:
        return await make_call(gateway, endpoint, options, arguments, previews=previews)
    except HttpError as error:
        detail = error.answer.detail
        if error.answer.status != 422 or isinstance(detail, str) or not as_they_are:
            raise
    endpoint, schema, _ = await _served(gateway, options.credential, endpoint)
    kept = {name: _shortened(value) for name, value in arguments.items()}
    return Call(gateway, endpoint, options, schema, kept, sync_mode=False, found_wrong=detail)


def _shortened(value: Json) -> Json:
    """Of what will never run, a file inside the arguments need not be kept."""
    if isinstance(value, str) and len(value) > UNUSED_CHARS_MAX:
        return f"{value[:UNUSED_CHARS_MAX]}..."
    return value


async def make_call(
    gateway: Gateway,
    endpoint: EndpointId,
    options: CallOptions,
    arguments: JsonObject,
    *,
    previews: bool = False,
) -> Call:
    """Raises HttpError for a size with no meaning, the platform's errors for model and key."""
    endpoint, schema, wanted = await _served(gateway, options.credential, endpoint)
    translated = translate_arguments(arguments, schema)
    if missing := [name for name in wanted if not translated.input.get(name)]:
        raise HttpError(
            422,
            [
                {"loc": ["body", name], "msg": "Field required", "type": "missing"}
                for name in missing
            ],
        )
    input_: dict[str, Json] = await gateway.inputs.bring(
        options.credential, translated.input, schema_properties(schema)
    )
    if previews:
        input_ = with_previews(input_, schema, gateway.limits.previews_per_stream)
    return Call(gateway, endpoint, options, schema, input_, translated.sync_mode)


async def _served(
    gateway: Gateway, credential: Credential, endpoint: EndpointId
) -> tuple[EndpointId, JsonObject, tuple[str, ...]]:
    """The model's own id, its input schema, and what a call by this id has to give.

    fal has ids of their own for drawing over a picture, and here one model does both.
    """
    try:
        model = await gateway.platform.model(credential, endpoint.full)
        return endpoint, object_or_empty(model.input_schema_json), ()
    except ModelNotFound:
        wanted = _WITH_PICTURES.get(endpoint.path[-1] if endpoint.path else "")
        if wanted is None:
            raise
        base = replace(endpoint, path=endpoint.path[:-1])
        schema = object_or_empty(
            (await gateway.platform.model(credential, base.full)).input_schema_json
        )
        if not set(wanted) <= schema_properties(schema).keys():
            raise
        return base, schema, wanted


class AttendedRequest:
    """A request whose caller waits for it on an open connection, and which ends if that closes."""

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self.request_id = request_id
        self._finished = False

    @classmethod
    async def submit(cls, call: Call) -> AttendedRequest:
        gateway = call.gateway
        submitting = asyncio.ensure_future(
            gateway.platform.submit(call.credential, call.submission())
        )
        try:
            accepted = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            # The caller left while the scheduler may be accepting: the request must not outlive it.
            gateway.start(cls._cancel_unseen(call, submitting))
            raise
        except QuickthawError as error:
            raise call.explain(error) from error
        await gateway.keep_for(accepted.request_id, call.options.keep_seconds)
        return cls(call, accepted.request_id)

    async def events(self) -> Events:
        """Until the last one.

        Raises HttpError 504 when the caller's start timeout passes, DeadlineExpired when the run
        takes longer than any may.
        """
        call = self._call
        now = asyncio.get_running_loop().time
        end_by = now() + call.gateway.limits.run_seconds_max
        limit_seconds = call.options.start_timeout_seconds
        start_by = end_by if limit_seconds is None else now() + limit_seconds
        events = follow(call.gateway.platform, call.credential, self.request_id)
        try:
            while True:
                left_seconds = max(0.0, min(start_by, end_by) - now())
                event = await asyncio.wait_for(next_event(events), left_seconds)
                if event is None:
                    return
                if has_started(event):
                    start_by = end_by
                self._finished = event.HasField("finished")
                yield event
        except TimeoutError as error:
            if start_by < end_by:
                answer = start_timeout_answer()
                raise HttpError(
                    answer.status, answer.detail, answer.error_type, answer.headers
                ) from error
            raise DeadlineExpired(
                f"the run took over {call.gateway.limits.run_seconds_max:g} s and was cancelled; "
                "use the queue for longer ones"
            ) from error
        finally:
            await events.aclose()

    def abandon(self) -> None:
        """Cancels the request unless it has ended; to be called when the caller is done with it."""
        if not self._finished:
            self._finished = True
            self._call.gateway.start(_cancel(self._call, self.request_id))

    @staticmethod
    async def _cancel_unseen(
        call: Call, submitting: asyncio.Future[inference_pb2.SubmitResponse]
    ) -> None:
        try:
            accepted = await submitting
        except QuickthawError:
            return  # It was refused: nothing to cancel.
        await _cancel(call, accepted.request_id)


def has_started(event: inference_pb2.Event) -> bool:
    """Whether a worker has begun, or nothing will begin any more."""
    match event.WhichOneof("kind"):
        case "state_change":
            return event.state_change.state not in _WAITING
        case None:
            return False
        case _:
            return True


async def _cancel(call: Call, request_id: str) -> None:
    try:
        await call.gateway.platform.cancel(call.credential, request_id)
    except QuickthawError as error:
        logger.warning("request %s was left running: %s", request_id, error.message)
