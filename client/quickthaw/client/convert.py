"""Between the wire's messages and the client's values. Nothing else in the client sees both.

`*_from_wire` never raises on what a newer server may say: an enum value that this version does not
know becomes UNKNOWN, an event of a new kind `OtherEvent`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar, cast

from quickthaw.client.billing import BudgetSpan, Scope
from quickthaw.client.catalog import Visibility
from quickthaw.client.events import (
    Event,
    Finished,
    Logged,
    OtherEvent,
    Previewed,
    Progressed,
    RealtimeAnswer,
    RealtimeEvent,
    RealtimeRefused,
    StateChanged,
)
from quickthaw.client.fleet import (
    WorkerState,
)
from quickthaw.client.requests import (
    Artifact,
    ComponentLoad,
    Estimate,
    Failure,
    JsonObject,
    LoadReport,
    Priority,
    Quote,
    Receipt,
    Request,
    RequestState,
    Submitted,
    Tier,
)
from quickthaw.v1 import billing_pb2, inference_pb2, types_pb2
from quickthaw.wire.errors import FieldViolation, InvalidArgument

ValueT = TypeVar("ValueT", bound=int)
E = TypeVar("E", Tier, RequestState, Priority, WorkerState, Scope, Visibility, BudgetSpan)


def enum_from_wire(
    kind: type[E], name_of: Callable[[ValueT], str], prefix: str, number: ValueT
) -> E:
    """The member named as on the wire, less the prefix; UNKNOWN for a number without one."""
    try:
        return kind(name_of(number).removeprefix(prefix).lower())
    except ValueError:
        return kind("unknown")


def _name_on_wire(member: StrEnum) -> str:
    return "UNSPECIFIED" if member.value == "unknown" else member.name


def tier_from_wire(number: types_pb2.Tier.ValueType) -> Tier:
    return enum_from_wire(Tier, types_pb2.Tier.Name, "TIER_", number)


def state_from_wire(number: types_pb2.RequestState.ValueType) -> RequestState:
    return enum_from_wire(RequestState, types_pb2.RequestState.Name, "REQUEST_STATE_", number)


def state_to_wire(state: RequestState) -> types_pb2.RequestState.ValueType:
    return types_pb2.RequestState.Value(f"REQUEST_STATE_{_name_on_wire(state)}")


def priority_to_wire(priority: Priority) -> types_pb2.Priority.ValueType:
    return types_pb2.Priority.Value(f"PRIORITY_{_name_on_wire(priority)}")


def scope_to_wire(scope: Scope) -> billing_pb2.Scope.ValueType:
    return billing_pb2.Scope.Value(f"SCOPE_{_name_on_wire(scope)}")


def json_to_wire(value: JsonObject) -> str:
    """Raises InvalidArgument for what JSON cannot say (NaN, bytes, ...)."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the input cannot be written as JSON: {error}") from error


def json_from_wire(text: str) -> JsonObject:
    """An empty text, and anything but an object, is an empty object: the server checks its own."""
    if not text:
        return {}
    value: object = json.loads(text)
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def failure_from_wire(message: types_pb2.Failure) -> Failure:
    return Failure(
        reason=message.reason,
        message=message.message,
        retryable=message.retryable,
        violations=tuple(FieldViolation(v.field, v.description) for v in message.violations),
    )


def artifact_from_wire(message: types_pb2.Artifact) -> Artifact:
    return Artifact(
        uri=message.uri,
        name=message.name,
        content_type=message.content_type,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        width=message.width,
        height=message.height,
        duration_ms=message.duration_ms,
    )


def load_from_wire(message: types_pb2.LoadReport) -> LoadReport:
    return LoadReport(
        components=tuple(
            ComponentLoad(
                name=component.name,
                digest=component.digest,
                size_bytes=component.size_bytes,
                source=tier_from_wire(component.source),
                copier=component.copier,
                read_seconds=component.read_seconds,
                copy_seconds=component.copy_seconds,
                why=component.why,
            )
            for component in message.components
        ),
        manifest_seconds=message.manifest_seconds,
        skeleton_seconds=message.skeleton_seconds,
        bytes_seconds=message.bytes_seconds,
        bind_seconds=message.bind_seconds,
        total_seconds=message.total_seconds,
        first_step_seconds=message.first_step_seconds,
        encode_seconds=message.encode_seconds,
        compiled=message.compiled,
    )


def receipt_from_wire(message: types_pb2.Receipt) -> Receipt:
    return Receipt(
        request_id=message.request_id,
        model=message.model,
        worker_id=message.worker_id,
        gpu_type=message.gpu_type,
        queue_ms=message.queue_ms,
        load_ms=message.load_ms,
        run_ms=message.run_ms,
        billed_ms=message.billed_ms,
        price_nanodollars=message.price_nanodollars,
        rate_nanodollars_per_second=message.rate_nanodollars_per_second,
        price_version=message.price_version,
        attempts=message.attempts,
        start_tier=tier_from_wire(message.start_tier),
        load=load_from_wire(message.load) if message.HasField("load") else None,
        placement=message.placement,
        seed=message.seed if message.HasField("seed") else None,
        waiver=message.waiver,
        unit=message.unit,
        micro_units=message.micro_units,
        unit_price_nanodollars=message.unit_price_nanodollars,
    )


def request_from_wire(message: types_pb2.Request) -> Request:
    return Request(
        request_id=message.request_id,
        tenant=message.tenant,
        model=message.model,
        snapshot_digest=message.snapshot_digest,
        priority=enum_from_wire(Priority, types_pb2.Priority.Name, "PRIORITY_", message.priority),
        state=state_from_wire(message.state),
        input=json_from_wire(message.input_json),
        submitted_unix_ms=message.submitted_unix_ms,
        finished_unix_ms=message.finished_unix_ms,
        deadline_unix_ms=message.deadline_unix_ms,
        attempts=message.attempts,
        queue_position=message.queue_position,
        output=json_from_wire(message.output_json),
        artifacts=tuple(artifact_from_wire(artifact) for artifact in message.artifacts),
        failure=failure_from_wire(message.failure) if message.HasField("failure") else None,
        receipt=receipt_from_wire(message.receipt) if message.HasField("receipt") else None,
    )


def submitted_from_wire(message: inference_pb2.SubmitResponse) -> Submitted:
    return Submitted(
        request_id=message.request_id,
        state=state_from_wire(message.state),
        queue_position=message.queue_position,
        deduplicated=message.deduplicated,
    )


def quote_from_wire(message: inference_pb2.QuoteResponse) -> Quote:
    def estimate(part: inference_pb2.Estimate) -> Estimate:
        return Estimate(part.p50, part.p95)

    return Quote(
        worker_id=message.worker_id,
        start_tier=tier_from_wire(message.start_tier),
        start_seconds=estimate(message.start_seconds),
        load_seconds=estimate(message.load_seconds),
        run_seconds=estimate(message.run_seconds),
        price_nanodollars=estimate(message.price_nanodollars),
        rate_nanodollars_per_second=message.rate_nanodollars_per_second,
        price_version=message.price_version,
    )


def event_from_wire(message: inference_pb2.Event) -> Event:
    header = (message.request_id, message.sequence, message.unix_ms)
    match message.WhichOneof("kind"):
        case "state_change":
            change = message.state_change
            return StateChanged(
                *header,
                state=state_from_wire(change.state),
                worker_id=change.worker_id,
                attempt=change.attempt,
                queue_position=change.queue_position,
                detail=change.detail,
            )
        case "progress":
            return Progressed(*header, message.progress.step, message.progress.steps)
        case "preview":
            preview = message.preview
            return Previewed(
                *header,
                step=preview.step,
                image_index=preview.image_index,
                content_type=preview.content_type,
                data=preview.data,
                width=preview.width,
                height=preview.height,
            )
        case "log":
            return Logged(*header, message.log.level, message.log.text)
        case "finished":
            return Finished(*header, request_from_wire(message.finished))
        case None:
            return OtherEvent(*header)


def realtime_from_wire(message: inference_pb2.RealtimeResponse) -> RealtimeAnswer:
    if message.WhichOneof("kind") == "refused":
        return RealtimeRefused(message.tag, failure_from_wire(message.refused))
    return RealtimeEvent(message.tag, event_from_wire(message.event))
