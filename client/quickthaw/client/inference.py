"""The calls on requests, once for both clients: submit, watch, run, cancel, quote, list, get."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from quickthaw.client import methods
from quickthaw.client.convert import (
    event_from_wire,
    json_to_wire,
    priority_to_wire,
    quote_from_wire,
    request_from_wire,
    state_from_wire,
    state_to_wire,
    submitted_from_wire,
)
from quickthaw.client.events import Event, Finished
from quickthaw.client.requests import (
    JsonObject,
    Priority,
    Quote,
    Request,
    RequestState,
    Submitted,
)
from quickthaw.client.retry import Context, Patience, call_with_retry, can_retry
from quickthaw.client.steps import Item, Iteration, Operation, call, open_stream, read
from quickthaw.v1 import inference_pb2
from quickthaw.wire.errors import DeadlineExpired, InvalidArgument, QuickthawError, Unavailable

PAGE_SIZE = 100


class SubmitOptions(TypedDict, total=False):
    """What a submission may say beside model and input. Everything may be left out."""

    priority: Priority
    deadline_seconds: float
    """From now; the request fails with DEADLINE_EXPIRED if it has not ended by then."""
    idempotency_key: str
    """The same key again returns the first request. One is made up where the caller has none."""
    worker_hint: str
    """A worker to prefer if it can run the request about as soon as any other."""
    second_worth_nanodollars: int
    """How much a second is worth: the exchange rate between speed and price in placement."""
    price_cap_nanodollars: int
    """Refuse rather than pay more for the run, by the p95 estimate."""


def _deadline_unix_ms(context: Context, seconds: float) -> int:
    at = (context.unix_seconds() + seconds) * 1000
    if not 0 < at < 2**63:
        raise InvalidArgument(f"deadline_seconds is {seconds:g}: give seconds from now")
    return int(at)


def submit_message(
    context: Context, model: str, input: JsonObject, options: SubmitOptions
) -> inference_pb2.SubmitRequest:
    deadline_unix_ms = 0
    if (seconds := options.get("deadline_seconds")) is not None:
        deadline_unix_ms = _deadline_unix_ms(context, seconds)
    return inference_pb2.SubmitRequest(
        model=model,
        input_json=json_to_wire(input),
        priority=priority_to_wire(options.get("priority", Priority.UNKNOWN)),
        deadline_unix_ms=deadline_unix_ms,
        idempotency_key=options.get("idempotency_key") or context.new_key(),
        worker_hint=options.get("worker_hint", ""),
        second_worth_nanodollars=options.get("second_worth_nanodollars", 0),
        price_cap_nanodollars=options.get("price_cap_nanodollars", 0),
    )


def unrepeated_message(
    context: Context, model: str, input: JsonObject, options: SubmitOptions
) -> inference_pb2.SubmitRequest:
    """For a stream, on which nothing is tried again: a key that is made up for retries would only
    have the server look it up, and write the request down before it begins."""
    message = submit_message(context, model, input, options)
    if "idempotency_key" not in options:
        message.ClearField("idempotency_key")
    return message


def submit(
    context: Context, model: str, input: JsonObject, options: SubmitOptions
) -> Operation[Submitted]:
    message = submit_message(context, model, input, options)
    return submitted_from_wire((yield from call_with_retry(context, methods.SUBMIT, message)))


def quote(
    context: Context, model: str, input: JsonObject, options: SubmitOptions
) -> Operation[Quote]:
    message = submit_message(context, model, input, options)
    return quote_from_wire((yield from call_with_retry(context, methods.QUOTE, message)))


def get(context: Context, request_id: str) -> Operation[Request]:
    message = inference_pb2.GetRequest(request_id=request_id)
    return request_from_wire((yield from call_with_retry(context, methods.GET, message)))


def cancel(context: Context, request_id: str) -> Operation[RequestState]:
    message = inference_pb2.CancelRequest(request_id=request_id)
    answer = yield from call_with_retry(context, methods.CANCEL, message)
    return state_from_wire(answer.state)


def list_requests(
    context: Context, states: Iterable[RequestState], model: str, limit: int | None
) -> Iteration[Request, None]:
    """Newest first, page by page as the caller goes on."""
    left = limit
    message = inference_pb2.ListRequestsRequest(
        states=[state_to_wire(state) for state in states], model=model
    )
    while left is None or left > 0:
        size = PAGE_SIZE if left is None else min(PAGE_SIZE, left)
        message.page.size = size
        answer = yield from call_with_retry(context, methods.LIST, message)
        for request in answer.requests:
            yield Item(request_from_wire(request))
        if not answer.next_page_token:
            return
        message.page.token = answer.next_page_token
        left = None if left is None else left - size


class _Cursor:
    """Where a watch is: survives the streams that it needs."""

    def __init__(self, after_sequence: int) -> None:
        self.after_sequence = after_sequence

    def admit(self, event: Event) -> bool:
        """Whether the event is new to the caller."""
        new = event.sequence > self.after_sequence or isinstance(event, Finished)
        self.after_sequence = max(self.after_sequence, event.sequence)
        return new


def watch(
    context: Context, request_id: str, after_sequence: int, timeout_seconds: float | None
) -> Iteration[Event, Request]:
    """Gives every event once, over as many streams as it takes; ends with the terminal request."""
    patience = Patience(context)
    cursor = _Cursor(after_sequence)
    give_up = None if timeout_seconds is None else context.monotonic() + timeout_seconds
    while True:
        left = None if give_up is None else give_up - context.monotonic()
        if left is not None and left <= 0:
            raise DeadlineExpired(
                f"request {request_id} did not end within {timeout_seconds:g} s of watching",
                metadata={"request_id": request_id},
            )
        try:
            return (yield from _watch_once(request_id, cursor, left, patience))
        except QuickthawError as error:
            error.metadata.setdefault("request_id", request_id)
            if give_up is None or context.monotonic() < give_up:
                yield from patience.pause_after(error)


def _watch_once(
    request_id: str, cursor: _Cursor, timeout_seconds: float | None, patience: Patience
) -> Iteration[Event, Request]:
    message = inference_pb2.WatchRequest(
        request_id=request_id, after_sequence=cursor.after_sequence
    )
    stream = yield from open_stream(methods.WATCH, message, timeout_seconds)
    try:
        while (answer := (yield from read(stream, methods.WATCH))) is not None:
            patience.reset()
            event = event_from_wire(answer)
            if cursor.admit(event):
                yield Item(event)
            if isinstance(event, Finished):
                return event.request
    finally:
        stream.cancel()
    raise Unavailable(f"the server ended the watch of request {request_id} before the request")


def run(
    context: Context,
    model: str,
    input: JsonObject,
    options: SubmitOptions,
    timeout_seconds: float | None,
) -> Iteration[Event, Request]:
    """Submit and watch to the end. An interruption takes the request back on the way out.

    An unreachable server does not: the request is journalled, and the error names it.
    """
    submitted = yield from submit(context, model, input, options)
    try:
        return (yield from watch(context, submitted.request_id, 0, timeout_seconds))
    except GeneratorExit:
        raise
    except BaseException as error:
        if not (isinstance(error, QuickthawError) and can_retry(error)):
            yield from _take_back(context, submitted.request_id)
        raise


def _take_back(context: Context, request_id: str) -> Operation[None]:
    """Best effort: what made the caller leave is the error to tell, not this one."""
    try:
        yield from call(
            methods.CANCEL,
            inference_pb2.CancelRequest(request_id=request_id),
            context.cancel_timeout_seconds,
        )
    except QuickthawError:
        return
