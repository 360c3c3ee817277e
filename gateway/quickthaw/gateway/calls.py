"""A call on its way to the scheduler: what was asked, and the request that it became."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quickthaw.gateway import idempotency
from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.arguments import translate_arguments, with_previews
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.endpoints import served
from quickthaw.gateway.errors import error_answer, start_timeout_answer
from quickthaw.gateway.follow import Events, follow, next_event
from quickthaw.gateway.ids import EndpointId
from quickthaw.gateway.json_text import Json, JsonObject, render
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.schemas import schema_properties
from quickthaw.gateway.violations import schema_violations
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.errors import (
    AlreadyExists,
    DeadlineExpired,
    InvalidInput,
    MessageTooLarge,
    QuickthawError,
)
from quickthaw.wire.limits import INPUT_BYTES_MAX

logger = logging.getLogger(__name__)

_WAITING = (types_pb2.REQUEST_STATE_UNSPECIFIED, types_pb2.REQUEST_STATE_QUEUED)


@dataclass(frozen=True, slots=True)
class CallOptions:
    credential: Credential
    priority: types_pb2.Priority.ValueType = types_pb2.PRIORITY_NORMAL
    start_timeout_seconds: float | None = None
    """From submission until a worker must have begun."""
    worker_hint: str = ""
    idempotency_key: str = ""
    no_retry: bool = False
    """The loss of its worker ends the request."""
    keep_seconds: float | None = None
    """After the end, how long what was made is kept; None: as long as the request."""
    io_kept_seconds: float | None = None
    """After the end, how long input and output are kept; None: as long as the request."""


@dataclass(frozen=True, slots=True)
class Call:
    gateway: Gateway
    endpoint: EndpointId
    options: CallOptions
    schema: JsonObject
    input: JsonObject
    sync_mode: bool
    found_wrong: Sequence[Mapping[str, object]] = ()
    """What must end the request before it runs, as the items of an error's detail."""

    @property
    def credential(self) -> Credential:
        return self.options.credential

    def submission(
        self, *, keyed: bool = True, unattended: bool = False
    ) -> inference_pb2.SubmitRequest:
        """`keyed`: with the caller's idempotency key, if it has one. `unattended`: with its start
        timeout, which nobody here keeps. Raises MessageTooLarge."""
        input_json = render(self.input)
        if len(input_json) > INPUT_BYTES_MAX:
            raise MessageTooLarge(
                f"the arguments are {len(input_json)} bytes of JSON and at most {INPUT_BYTES_MAX} "
                "are taken; send large files by URL"
            )
        submission = inference_pb2.SubmitRequest(
            model=self.endpoint.full,
            input_json=input_json,
            priority=self.options.priority,
            worker_hint=self.options.worker_hint,
            idempotency_key=self.options.idempotency_key if keyed else "",
            attempts_max=1 if self.options.no_retry else 0,
            io_kept_ms=int(1000 * (self.options.io_kept_seconds or 0)),
            files_kept_ms=math.ceil(1000 * (self.options.keep_seconds or 0)),
        )
        if unattended and (seconds := self.options.start_timeout_seconds) is not None:
            submission.start_deadline_unix_ms = int((time.time() + seconds) * 1000)
        return submission

    def explain(self, error: QuickthawError) -> Exception:
        """A refusal of the arguments with the kind of each violation, anything else as it is."""
        match error:
            case InvalidInput():
                answer = error_answer(error, schema_violations(self.input, self.schema))
                return HttpError(answer.status, answer.detail, answer.error_type, answer.headers)
            case AlreadyExists():
                place: list[Json] = ["header", idempotency.HEADER]
                item = {"loc": place, "msg": error.message, "type": "value_error"}
                return HttpError(422, [item])
            case _:
                return error


async def make_call(
    gateway: Gateway,
    endpoint: EndpointId,
    options: CallOptions,
    arguments: JsonObject,
    *,
    previews: bool = False,
) -> Call:
    """Raises HttpError for a size with no meaning, the platform's errors for model and key."""
    found = await served(gateway, options.credential, endpoint)
    translated = translate_arguments(arguments, found.schema)
    if missing := [name for name in found.wanted if not translated.input.get(name)]:
        raise HttpError(
            422,
            [
                {"loc": ["body", name], "msg": "Field required", "type": "missing"}
                for name in missing
            ],
        )
    input_: dict[str, Json] = await gateway.inputs.bring(
        options.credential, translated.input, schema_properties(found.schema)
    )
    if previews:
        input_ = with_previews(input_, found.schema, gateway.limits.previews_per_stream)
    return Call(gateway, found.endpoint, options, found.schema, input_, translated.sync_mode)


class AttendedRequest:
    """A request whose caller waits for it on an open connection, and which ends if that closes.

    One with an idempotency key goes on: its caller can ask again, and others may be waiting for it.
    """

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self.request_id = request_id
        self._finished = False
        self._outlives = bool(call.options.idempotency_key)

    @classmethod
    async def submit(cls, call: Call) -> AttendedRequest:
        gateway = call.gateway
        outlives = bool(call.options.idempotency_key)
        submission = call.submission(unattended=outlives)
        if outlives:
            end_by = time.time() + gateway.limits.run_seconds_max
            submission.deadline_unix_ms = int(1000 * end_by)
        submitting = asyncio.ensure_future(gateway.platform.submit(call.credential, submission))
        try:
            accepted = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            if not outlives:
                # It left while the scheduler may be accepting.
                gateway.start(cls._cancel_unseen(call, submitting))
            raise
        except QuickthawError as error:
            raise call.explain(error) from error
        return cls(call, accepted.request_id)

    async def events(self) -> Events:
        """Until the last one.

        Raises HttpError 504 when the caller's start timeout passes, DeadlineExpired when the run
        takes longer than any may.
        """
        call = self._call
        now = asyncio.get_running_loop().time
        end_by = now() + call.gateway.limits.run_seconds_max
        # Whoever asks again for what outlives its callers is not who it was to begin in time for.
        limit_seconds = None if self._outlives else call.options.start_timeout_seconds
        start_by = end_by if limit_seconds is None else now() + limit_seconds
        events = follow(call.gateway.platform, call.credential, self.request_id)
        try:
            while True:
                left_seconds = max(0.0, min(start_by, end_by) - now())
                # Not `wait_for`, which may take the end of its caller for an event that came along.
                async with asyncio.timeout(left_seconds):
                    event = await next_event(events)
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
        """Cancels the request unless it has ended or outlives its caller; to be called when the
        caller is done with it."""
        if not (self._finished or self._outlives):
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
