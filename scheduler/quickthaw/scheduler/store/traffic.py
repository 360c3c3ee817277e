"""Requests that have ended and how they went, without what was in them."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, select
from sqlalchemy.engine import Connection

from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.store import schema

_requests = schema.requests.c
_attempts = schema.attempts.c


class TrafficRow(NamedTuple):
    """One request; what is said of a worker is of its last attempt, 0 and empty without one."""

    request_id: str
    model: str
    tenant: str
    priority: int
    submitted_ms: int
    deadline_ms: int
    work_units: float
    state: RequestState
    finished_ms: int
    attempts: int
    gpu_type: str = ""
    start_tier: int = 0
    placed_ms: int = 0
    load_ms: int = 0
    run_ms: int = 0
    rate_nanodollars_per_second: int = 0


def traffic_page(
    connection: Connection, from_ms: int, until_ms: int, after_id: str, size: int
) -> list[TrafficRow]:
    """In the order of submission, after the request `after_id`; `until_ms` 0 for no end."""
    last = and_(
        _attempts.request_id == _requests.request_id, _attempts.attempt == _requests.attempts
    )
    statement = (
        select(
            _requests.request_id,
            _requests.model_id,
            _requests.tenant,
            _requests.priority,
            _requests.submitted_unix_ms,
            _requests.deadline_unix_ms,
            _requests.work_units,
            _requests.state,
            _requests.finished_unix_ms,
            _requests.attempts,
            _attempts.gpu_type,
            _attempts.start_tier,
            _attempts.placed_unix_ms,
            _attempts.load_ms,
            _attempts.metered_ms,
            _attempts.rate_nanodollars_per_second,
        )
        .join_from(schema.requests, schema.attempts, last, isouter=True)
        .where(
            _requests.request_id > after_id,
            _requests.finished_unix_ms > 0,
            _requests.submitted_unix_ms >= from_ms,
        )
        .order_by(_requests.request_id)
        .limit(size)
    )
    if until_ms:
        statement = statement.where(_requests.submitted_unix_ms < until_ms)
    found = []
    for row in connection.execute(statement):
        request, state, (finished_ms, tries), attempt = row[:7], row[7], row[8:10], row[10:]
        worker = attempt if attempt[0] is not None else ()
        found.append(TrafficRow(*request, RequestState(state), finished_ms, tries, *worker))
    return found
