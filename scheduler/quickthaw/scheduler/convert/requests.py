"""Requests, their events and their ends."""

from __future__ import annotations

from collections.abc import Iterable

from quickthaw.scheduler.convert.webhook_targets import target
from quickthaw.scheduler.convert.words import (
    STATE_FROM_WIRE,
    STATE_TO_WIRE,
    checked_text,
    invalid,
    priority_from_wire,
    storable,
    tier_to_wire,
)
from quickthaw.scheduler.core import commands
from quickthaw.scheduler.core.decisions import Decision
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import Estimate, Priority, Quote, Receipt
from quickthaw.scheduler.core.records import record
from quickthaw.scheduler.store.rows import EndColumns
from quickthaw.scheduler.views import RequestView
from quickthaw.scheduler.webhook_rules import Target
from quickthaw.v1 import fleet_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors, limits

NAME_CHARS_MAX = 200
WAIT_MS_MAX = 60_000
FOUND_WRONG_MAX = 32
FILES_KEPT_MS_MAX = 10 * 366 * 24 * 3_600_000
_FAILURE_CHARS_MAX = 4_000
_VIOLATION_CHARS_MAX = 1_000


@record
class Submission:
    """A SubmitRequest whose own fields are checked; model and input are not yet."""

    model: str
    input_json: str
    priority: Priority
    deadline_ms: int
    idempotency_key: str
    worker_hint: str
    second_worth_nanodollars: int
    price_cap_nanodollars: int
    start_deadline_ms: int = 0
    attempts_max: int = 0
    model_queue_max: int = 0
    accept_invalid_input: bool = False
    webhook: Target | None = None
    key_id: str = ""
    ahead: bool = False
    wait_ms: int = 0
    contents_bytes_max: int = 0
    found_wrong: tuple[errors.FieldViolation, ...] = ()
    io_kept_ms: int = 0
    files_kept_ms: int = 0


def submission(message: inference_pb2.SubmitRequest, key_id: str = "") -> Submission:
    """`key_id`: the key that submits, for its bill. Raises InvalidArgument."""
    deadline_ms, start_deadline_ms = message.deadline_unix_ms, message.start_deadline_unix_ms
    worth, price_cap = message.second_worth_nanodollars, message.price_cap_nanodollars
    attempts_max, model_queue_max = message.attempts_max, message.model_queue_max
    # All at once: what one of them is below zero is below zero.
    if (deadline_ms | start_deadline_ms | worth | price_cap | attempts_max | model_queue_max) < 0:
        raise _negative(message)
    if message.wait_ms > WAIT_MS_MAX:
        raise invalid("wait_ms", f"must be at most {WAIT_MS_MAX}, but is {message.wait_ms}")
    if message.files_kept_ms > FILES_KEPT_MS_MAX:
        raise invalid(
            "files_kept_ms", f"must be at most {FILES_KEPT_MS_MAX}, but is {message.files_kept_ms}"
        )
    return Submission(
        model=checked_text("model", message.model, chars_max=NAME_CHARS_MAX, required=True),
        input_json=message.input_json,
        priority=priority_from_wire(message.priority),
        deadline_ms=deadline_ms,
        idempotency_key=_key(message.idempotency_key),
        worker_hint=_hint(message.worker_hint),
        second_worth_nanodollars=worth,
        price_cap_nanodollars=price_cap,
        start_deadline_ms=start_deadline_ms,
        attempts_max=attempts_max,
        model_queue_max=model_queue_max,
        accept_invalid_input=message.accept_invalid_input,
        webhook=target(message.webhook) if message.HasField("webhook") else None,
        key_id=key_id,
        wait_ms=message.wait_ms,
        found_wrong=_found_wrong(message),
        io_kept_ms=message.io_kept_ms,
        files_kept_ms=message.files_kept_ms,
    )


def _key(text: str) -> str:
    return text and checked_text(
        "idempotency_key", text, chars_max=limits.IDEMPOTENCY_KEY_CHARS_MAX
    )


def _hint(text: str) -> str:
    return text and checked_text("worker_hint", text, chars_max=NAME_CHARS_MAX)


def _negative(message: inference_pb2.SubmitRequest) -> errors.InvalidArgument:
    names = (
        *("deadline_unix_ms", "second_worth_nanodollars", "price_cap_nanodollars"),
        *("start_deadline_unix_ms", "attempts_max", "model_queue_max"),
    )
    name = next(name for name in names if getattr(message, name) < 0)
    return invalid(name, f"must not be negative, but is {getattr(message, name)}")


def _found_wrong(message: inference_pb2.SubmitRequest) -> tuple[errors.FieldViolation, ...]:
    """Raises InvalidArgument."""
    if not message.found_wrong:
        return ()
    if not message.accept_invalid_input:
        raise invalid("found_wrong", "needs accept_invalid_input: do not submit what cannot run")
    if len(message.found_wrong) > FOUND_WRONG_MAX:
        raise invalid("found_wrong", f"must be at most {FOUND_WRONG_MAX}")
    return tuple(
        errors.FieldViolation(
            *(
                storable(text[:_VIOLATION_CHARS_MAX])
                for text in (each.field, each.description, each.kind, each.limits_json)
            )
        )
        for each in message.found_wrong
    )


def states(wire_states: Iterable[types_pb2.RequestState.ValueType]) -> list[RequestState]:
    """Raises InvalidArgument."""
    try:
        return [STATE_FROM_WIRE[state] for state in wire_states]
    except KeyError as error:
        raise invalid("states", f"{error.args[0]} is no state") from error


def state_message(state: RequestState) -> types_pb2.RequestState.ValueType:
    return STATE_TO_WIRE[state]


def request_message(view: RequestView) -> types_pb2.Request:
    message = types_pb2.Request()
    fill_request(message, view)
    return message


def fill_request(message: types_pb2.Request, view: RequestView) -> None:
    """Into an empty message. (Field by field, for a message made from arguments, or copied into
    another one, takes several times as long; what is zero need not be said.)"""
    if view.end_proto:
        message.MergeFromString(view.end_proto)
    message.request_id = view.request_id
    message.tenant = view.tenant
    message.model = view.model
    message.snapshot_digest = view.snapshot_digest
    # Our numbers are the wire's; see the test of the enumerations.
    message.priority = types_pb2.Priority.ValueType(view.priority)
    message.state = STATE_TO_WIRE[view.state]
    message.input_json = view.input_json
    message.submitted_unix_ms = view.submitted_ms
    message.finished_unix_ms = view.finished_ms
    message.deadline_unix_ms = view.deadline_ms
    message.attempts = view.attempts
    if view.state is RequestState.QUEUED:
        message.queue_position = view.queue_position
    message.output_json = view.output_json


def end_columns(command: commands.JournalEnd) -> EndColumns | None:
    """What the store keeps of a terminal state; None if the request goes on."""
    end = command.then
    if not isinstance(end, commands.RequestEnd):
        return None
    finished = end.payload if isinstance(end.payload, fleet_pb2.AttemptFinished) else None
    message = types_pb2.Request()
    _fill_receipt(message.receipt, end.receipt, finished)
    output_json = ""
    if finished is not None and end.state is RequestState.SUCCEEDED:
        output_json = storable(finished.output_json)
        if finished.artifacts:
            message.artifacts.extend(finished.artifacts)
    if end.failure is not None:
        message.failure.reason = end.failure.reason
        message.failure.message = end.failure.message[:_FAILURE_CHARS_MAX]
        message.failure.retryable = end.failure.retryable
        if finished is not None and finished.failure.reason == end.failure.reason:
            message.failure.violations.extend(finished.failure.violations)
    return EndColumns(output_json, message.SerializeToString())


def sent_contents(command: commands.JournalEnd) -> tuple[bytes, ...]:
    """What came of a successful request's files along with its end; all of them or none."""
    end = command.then
    if not isinstance(end, commands.RequestEnd) or end.state is not RequestState.SUCCEEDED:
        return ()
    finished = end.payload
    if not isinstance(finished, fleet_pb2.AttemptFinished) or not finished.contents:
        return ()
    contents = tuple(finished.contents)
    if [*map(len, contents)] != [each.size_bytes for each in finished.artifacts]:
        return ()
    return contents


def refused_columns(view: RequestView, error: errors.QuickthawError) -> EndColumns:
    """The end of a request that was accepted although its input is wrong: it never ran."""
    receipt = types_pb2.Receipt(request_id=view.request_id, model=view.model)
    message = types_pb2.Request(receipt=receipt, failure=failure_message(error))
    message.failure.message = message.failure.message[:_FAILURE_CHARS_MAX]
    return EndColumns("", message.SerializeToString())


def _fill_receipt(
    message: types_pb2.Receipt, receipt: Receipt, finished: fleet_pb2.AttemptFinished | None
) -> None:
    message.request_id = receipt.request_id
    message.model = receipt.model
    message.worker_id = receipt.worker_id
    message.gpu_type = receipt.gpu_type
    message.queue_ms = receipt.queue_ms
    message.load_ms = receipt.load_ms
    message.run_ms = receipt.run_ms
    message.billed_ms = receipt.billed_ms
    message.price_nanodollars = receipt.price_nanodollars
    message.rate_nanodollars_per_second = receipt.rate_nanodollars_per_second
    message.price_version = receipt.price_version
    message.attempts = receipt.attempts
    message.start_tier = tier_to_wire(receipt.start_tier)
    message.placement = receipt.placement
    message.waiver = receipt.waiver
    message.unit = receipt.unit
    message.micro_units = receipt.micro_units
    message.unit_price_nanodollars = receipt.unit_price_nanodollars
    if finished is not None:
        if finished.HasField("load"):
            message.load.CopyFrom(finished.load)
        if finished.HasField("seed"):
            message.seed = finished.seed


# ---- events ----------------------------------------------------------------------------------

WatchPayload = commands.TellProgress | commands.TellQueued | RequestView | fleet_pb2.AttemptEvent
"""What the events log holds. A RequestView is the finished request."""


def event_message(
    request_id: str, sequence: int, unix_ms: int, payload: WatchPayload
) -> inference_pb2.Event:
    event = inference_pb2.Event(request_id=request_id, sequence=sequence, unix_ms=unix_ms)
    match payload:
        case commands.TellProgress():
            event.state_change.state = STATE_TO_WIRE[payload.state]
            event.state_change.worker_id = payload.worker_id
            event.state_change.attempt = payload.attempt
            event.state_change.detail = payload.detail
        case commands.TellQueued():
            event.state_change.state = types_pb2.REQUEST_STATE_QUEUED
            event.state_change.attempt = payload.attempt
            event.state_change.queue_position = payload.queue_position
            event.state_change.detail = payload.detail
        case RequestView():
            event.finished.CopyFrom(request_message(payload))
        case fleet_pb2.AttemptEvent():
            _copy_kind(payload, event)
    return event


def is_told_with_end(payload: WatchPayload) -> bool:
    """Whether it is worth telling to who hears of the end only then: the log, the steps, the start
    of the run."""
    match payload:
        case commands.TellProgress():
            return payload.state is RequestState.RUNNING
        case fleet_pb2.AttemptEvent():
            return payload.WhichOneof("kind") in ("log", "progress")
        case commands.TellQueued() | RequestView():
            pass
    return False


def _copy_kind(source: fleet_pb2.AttemptEvent, event: inference_pb2.Event) -> None:
    match source.WhichOneof("kind"):
        case "progress":
            event.progress.CopyFrom(source.progress)
        case "preview":
            event.preview.CopyFrom(source.preview)
        case "log":
            event.log.CopyFrom(source.log)
        case None:
            pass


def failure_message(error: errors.QuickthawError) -> types_pb2.Failure:
    """A refusal, where it travels as a message and not as a status."""
    return types_pb2.Failure(
        reason=error.reason,
        message=error.message,
        retryable=error.retry_delay_seconds is not None,
        violations=[
            types_pb2.FieldViolation(
                field=each.field,
                description=each.description,
                kind=each.kind,
                limits_json=each.limits_json,
            )
            for each in error.violations
        ],
    )


# ---- quotes and decisions --------------------------------------------------------------------


def quote_message(quote: Quote) -> inference_pb2.QuoteResponse:
    return inference_pb2.QuoteResponse(
        worker_id=quote.worker_id,
        start_tier=tier_to_wire(quote.start_tier),
        start_seconds=_estimate(quote.start_seconds),
        load_seconds=_estimate(quote.load_seconds),
        run_seconds=_estimate(quote.run_seconds),
        price_nanodollars=_estimate(quote.price_nanodollars),
        rate_nanodollars_per_second=quote.rate_nanodollars_per_second,
        price_version=quote.price_version,
    )


def _estimate(estimate: Estimate) -> inference_pb2.Estimate:
    return inference_pb2.Estimate(p50=estimate.p50, p95=estimate.p95)


def decision_message(decision: Decision) -> fleet_pb2.Decision:
    return fleet_pb2.Decision(
        attempt=decision.attempt,
        decided_unix_ms=decision.decided_ms,
        chosen_worker_id=decision.chosen_worker_id or "",
        candidates=[
            fleet_pb2.Candidate(
                worker_id=each.worker_id,
                score_seconds=each.score_seconds,
                drain_seconds=each.drain_seconds,
                load_seconds=each.load_seconds,
                run_seconds=each.run_seconds,
                load_term_seconds=each.load_term_seconds,
                price_term_seconds=each.price_term_seconds,
                eviction_term_seconds=each.eviction_term_seconds,
                start_tier=tier_to_wire(each.start_tier),
                evict_digests=each.evict_digests,
            )
            for each in decision.candidates
        ],
        refusals=[
            fleet_pb2.Refusal(worker_id=each.worker_id, reason=each.reason, detail=each.detail)
            for each in decision.refusals
        ],
        tie_break=decision.tie_break,
    )
