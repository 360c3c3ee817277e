"""What was asked of the platform and how it went, without inputs: for planning."""

from __future__ import annotations

from dataclasses import dataclass

from quickthaw.client import methods
from quickthaw.client.convert import enum_from_wire, state_from_wire, tier_from_wire
from quickthaw.client.inference import PAGE_SIZE
from quickthaw.client.requests import Priority, RequestState, Tier
from quickthaw.client.retry import Context, call_with_retry
from quickthaw.client.steps import Item, Iteration
from quickthaw.v1 import traffic_pb2, types_pb2


@dataclass(frozen=True, slots=True)
class TrafficEntry:
    """One request that has ended. What is said of a worker is of its last attempt."""

    model: str
    tenant: str
    priority: Priority
    submitted_unix_ms: int
    deadline_unix_ms: int
    """0 for none."""
    work_units: float
    state: RequestState
    finished_unix_ms: int
    attempts: int
    """0 if it was never placed; then what follows is empty."""
    gpu_type: str
    start_tier: Tier
    queue_ms: int
    load_ms: int
    run_ms: int
    rate_nanodollars_per_second: int


def list_traffic(
    context: Context, from_unix_ms: int, until_unix_ms: int
) -> Iteration[TrafficEntry, None]:
    message = traffic_pb2.ListTrafficRequest(from_unix_ms=from_unix_ms, until_unix_ms=until_unix_ms)
    message.page.size = PAGE_SIZE
    while True:
        answer = yield from call_with_retry(context, methods.LIST_TRAFFIC, message)
        for entry in answer.entries:
            yield Item(_entry_from_wire(entry))
        if not answer.next_page_token:
            return
        message.page.token = answer.next_page_token


def _entry_from_wire(message: traffic_pb2.TrafficEntry) -> TrafficEntry:
    return TrafficEntry(
        model=message.model,
        tenant=message.tenant,
        priority=enum_from_wire(Priority, types_pb2.Priority.Name, "PRIORITY_", message.priority),
        submitted_unix_ms=message.submitted_unix_ms,
        deadline_unix_ms=message.deadline_unix_ms,
        work_units=message.work_units,
        state=state_from_wire(message.state),
        finished_unix_ms=message.finished_unix_ms,
        attempts=message.attempts,
        gpu_type=message.gpu_type,
        start_tier=tier_from_wire(message.start_tier),
        queue_ms=message.queue_ms,
        load_ms=message.load_ms,
        run_ms=message.run_ms,
        rate_nanodollars_per_second=message.rate_nanodollars_per_second,
    )
