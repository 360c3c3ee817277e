"""A request as the outside may see it: what is durable, and nothing that is not yet."""

from __future__ import annotations

from dataclasses import dataclass

from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import Priority


@dataclass(slots=True)
class RequestView:
    """`end_proto` is empty until the end; see `store.schema.requests` for what it holds."""

    request_id: str
    tenant: str
    model: str
    snapshot_digest: str
    priority: Priority
    input_json: str
    submitted_ms: int
    deadline_ms: int = 0
    state: RequestState = RequestState.QUEUED
    attempts: int = 0
    queue_position: int = 0
    finished_ms: int = 0
    output_json: str = ""
    end_proto: bytes = b""
