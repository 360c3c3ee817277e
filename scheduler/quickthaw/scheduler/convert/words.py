"""The enumerations, and the checks that every message's text passes."""

from __future__ import annotations

from collections.abc import Mapping

from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import Priority, Tier, WorkerState
from quickthaw.scheduler.keys import Scope
from quickthaw.v1 import billing_pb2, fleet_pb2, types_pb2
from quickthaw.wire import errors

STATE_TO_WIRE: Mapping[RequestState, types_pb2.RequestState.ValueType] = {
    RequestState.QUEUED: types_pb2.REQUEST_STATE_QUEUED,
    RequestState.PLACED: types_pb2.REQUEST_STATE_PLACED,
    RequestState.LOADING: types_pb2.REQUEST_STATE_LOADING,
    RequestState.RUNNING: types_pb2.REQUEST_STATE_RUNNING,
    RequestState.SUCCEEDED: types_pb2.REQUEST_STATE_SUCCEEDED,
    RequestState.FAILED: types_pb2.REQUEST_STATE_FAILED,
    RequestState.CANCELLED: types_pb2.REQUEST_STATE_CANCELLED,
}
STATE_FROM_WIRE: Mapping[int, RequestState] = {wire: ours for ours, wire in STATE_TO_WIRE.items()}

WORKER_STATE_TO_WIRE: Mapping[WorkerState, fleet_pb2.WorkerState.ValueType] = {
    WorkerState.READY: fleet_pb2.WORKER_STATE_READY,
    WorkerState.CORDONED: fleet_pb2.WORKER_STATE_CORDONED,
    WorkerState.DRAINING: fleet_pb2.WORKER_STATE_DRAINING,
    WorkerState.DISCONNECTED: fleet_pb2.WORKER_STATE_DISCONNECTED,
    WorkerState.BACKING_OFF: fleet_pb2.WORKER_STATE_BACKING_OFF,
}

SCOPE_TO_WIRE: Mapping[Scope, billing_pb2.Scope.ValueType] = {
    Scope.CALL: billing_pb2.SCOPE_CALL,
    Scope.ADMIN: billing_pb2.SCOPE_ADMIN,
    Scope.WORKER: billing_pb2.SCOPE_WORKER,
    Scope.DEPLOY: billing_pb2.SCOPE_DEPLOY,
}
SCOPE_FROM_WIRE: Mapping[int, Scope] = {wire: ours for ours, wire in SCOPE_TO_WIRE.items()}


def tier_to_wire(tier: Tier | None) -> types_pb2.Tier.ValueType:
    """The numbers are the same on both sides; None is UNSPECIFIED."""
    return types_pb2.TIER_UNSPECIFIED if tier is None else _TIERS[tier]


_TIERS: Mapping[Tier, types_pb2.Tier.ValueType] = {
    Tier.VRAM: types_pb2.TIER_VRAM,
    Tier.PINNED: types_pb2.TIER_PINNED,
    Tier.DISK: types_pb2.TIER_DISK,
    Tier.REMOTE: types_pb2.TIER_REMOTE,
}
_TIERS_FROM_WIRE = {int(wire): ours for ours, wire in _TIERS.items()}


def tier_from_wire(tier: int) -> Tier | None:
    """None for UNSPECIFIED and for what a newer peer means."""
    return _TIERS_FROM_WIRE.get(tier)


def priority_from_wire(priority: int) -> Priority:
    """UNSPECIFIED is NORMAL. Raises InvalidArgument."""
    if priority == types_pb2.PRIORITY_UNSPECIFIED:
        return Priority.NORMAL
    try:
        return Priority(priority)
    except ValueError as error:
        raise invalid("priority", f"must be LOW, NORMAL or HIGH, not {priority}") from error


def invalid(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"{field} {description}", violations=(errors.FieldViolation(field, description),)
    )


def checked_text(field: str, text: str, *, chars_max: int, required: bool = False) -> str:
    """Raises InvalidArgument if it is too long, missing, or holds control characters."""
    if required and not text:
        raise invalid(field, "is required")
    if len(text) > chars_max:
        raise invalid(field, f"must be at most {chars_max} characters long, not {len(text)}")
    if not text.isprintable():
        raise invalid(field, "must not hold control characters")
    return text


def storable(text: str) -> str:
    """PostgreSQL's text cannot hold a NUL; no valid JSON or message has one."""
    return text.replace("\0", "")
