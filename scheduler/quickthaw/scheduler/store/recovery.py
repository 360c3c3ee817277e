"""What a starting scheduler reads: the catalog, and everything that has not ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import RowMapping, select
from sqlalchemy.engine import Connection

from quickthaw.scheduler.catalog import CatalogModel
from quickthaw.scheduler.core.endings import MOVED
from quickthaw.scheduler.core.events import (
    EndpointChanged,
    MarkRecovered,
    QuarantineRecovered,
    RequestRecovered,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Job,
    ModelId,
    ModelSpec,
    Priority,
    RequestId,
    TenantId,
    Tier,
    WorkerId,
    WorkerMark,
)
from quickthaw.scheduler.core.pricing import WORKER_LOST, waiver_of
from quickthaw.scheduler.core.sanctions import Quarantine
from quickthaw.scheduler.store import schema
from quickthaw.scheduler.store.endpoints import endpoint_from_row
from quickthaw.scheduler.store.queries import view_from_row
from quickthaw.scheduler.views import RequestView
from quickthaw.scheduler.work_units import batch_key, output_units


@dataclass(frozen=True, slots=True)
class Recovered:
    """One request that had not ended: as callers saw it, and as the core needs it."""

    view: RequestView
    event: RequestRecovered


def catalog_models(connection: Connection) -> list[CatalogModel]:
    models, versions = schema.models, schema.model_versions
    statement = select(
        models.c.registered_unix_ms, versions.c.document_json, versions.c.version
    ).join_from(models, versions, models.c.version == versions.c.version)
    return [
        CatalogModel.from_document(row.document_json, row.registered_unix_ms)
        for row in connection.execute(statement)
    ]


def tenant_weights(connection: Connection) -> dict[str, float]:
    columns = schema.tenants.c
    rows = connection.execute(select(columns.tenant, columns.weight))
    return {row.tenant: row.weight for row in rows}


def worker_marks(connection: Connection) -> list[MarkRecovered]:
    marks = schema.worker_marks
    rows = connection.execute(select(marks).order_by(marks.c.worker_id))
    return [
        MarkRecovered(
            WorkerMark(
                WorkerId(row.worker_id),
                bool(row.cordoned),
                bool(row.draining),
                bool(row.stop),
                row.incarnation,
            )
        )
        for row in rows
    ]


def quarantines(connection: Connection) -> list[QuarantineRecovered]:
    rows = connection.execute(select(schema.quarantines).order_by(schema.quarantines.c.model_id))
    return [
        QuarantineRecovered(
            Quarantine(ModelId(row.model_id), row.snapshot_digest, row.reason, row.since_unix_ms)
        )
        for row in rows
    ]


def endpoints(connection: Connection) -> list[EndpointChanged]:
    rows = connection.execute(select(schema.endpoints).order_by(schema.endpoints.c.model_id))
    return [
        EndpointChanged(ModelId(row["model_id"]), endpoint_from_row(row)) for row in rows.mappings()
    ]


class PastRun(NamedTuple):
    """A run that succeeded."""

    model: ModelId
    gpu_type: str
    work_units: float
    seconds: float


def recent_runs(connection: Connection, newest: int) -> list[PastRun]:
    """The last `newest` that ended, oldest first."""
    attempts, requests = schema.attempts, schema.requests
    statement = (
        select(
            requests.c.model_id, attempts.c.gpu_type, requests.c.work_units, attempts.c.metered_ms
        )
        .join_from(attempts, requests, attempts.c.request_id == requests.c.request_id)
        .where(attempts.c.state == RequestState.SUCCEEDED.value)
        .order_by(attempts.c.ended_unix_ms.desc())
        .limit(newest)
    )
    rows = connection.execute(statement).all()
    return [
        PastRun(ModelId(row.model_id), row.gpu_type, row.work_units, row.metered_ms / 1000)
        for row in reversed(rows)
    ]


def open_requests(connection: Connection) -> Iterator[Recovered]:
    """In the order of submission."""
    requests = schema.requests
    is_open = requests.c.finished_unix_ms == 0
    attempts = _attempts_by_request(connection)
    lost_on = _lost_on_by_request(connection)
    specs: dict[str, ModelSpec] = {}
    statement = select(requests).where(is_open).order_by(requests.c.request_id)
    for row in connection.execute(statement).mappings():
        version = row["model_version"]
        if version not in specs:
            specs[version] = _spec(connection, version)
        request_id = row["request_id"]
        known = attempts.get(request_id, [])
        open_row = next((each for each in known if each["ended_unix_ms"] == 0), None)
        yield Recovered(
            view_from_row(row),
            RequestRecovered(
                job=_job(row, specs[version]),
                attempts=max([row["attempts"], *(each["attempt"] for each in known)]),
                open_attempt=_attempt(open_row) if open_row is not None else None,
                open_state=(
                    RequestState(open_row["state"]) if open_row is not None else RequestState.PLACED
                ),
                lost_on=frozenset(WorkerId(each) for each, _ in lost_on.get(request_id, ())),
                killed_on=tuple(
                    WorkerId(each) for each, killed in lost_on.get(request_id, ()) if killed
                ),
                cancel_requested=bool(row["cancel_requested"]),
            ),
        )


def _attempts_by_request(connection: Connection) -> dict[str, list[RowMapping]]:
    requests, attempts = schema.requests, schema.attempts
    statement = (
        select(attempts)
        .join_from(attempts, requests, attempts.c.request_id == requests.c.request_id)
        .where(requests.c.finished_unix_ms == 0)
    )
    found: dict[str, list[RowMapping]] = {}
    for row in connection.execute(statement).mappings():
        found.setdefault(row["request_id"], []).append(row)
    return found


def _lost_on_by_request(connection: Connection) -> dict[str, list[tuple[str, bool]]]:
    """Workers on which each was lost or could not load, and whether it may have killed them."""
    requests, ledger, attempts = schema.requests, schema.ledger, schema.attempts
    statement = (
        select(ledger.c.request_id, ledger.c.worker_id, ledger.c.waiver, attempts.c.loading_unix_ms)
        .join_from(ledger, requests, ledger.c.request_id == requests.c.request_id)
        .outerjoin(attempts, ledger.c.attempt_id == attempts.c.attempt_id)
        .where(requests.c.finished_unix_ms == 0, ledger.c.waiver != waiver_of(MOVED))
        .order_by(ledger.c.attempt_id)
    )
    found: dict[str, list[tuple[str, bool]]] = {}
    for row in connection.execute(statement):
        killed = row.waiver == WORKER_LOST and bool(row.loading_unix_ms)
        found.setdefault(row.request_id, []).append((row.worker_id, killed))
    return found


def _spec(connection: Connection, version: str) -> ModelSpec:
    columns = schema.model_versions.c
    statement = select(columns.document_json).where(columns.version == version)
    return CatalogModel.from_document(connection.execute(statement).scalar_one(), 0).spec


def _job(row: RowMapping, spec: ModelSpec) -> Job:
    given = json.loads(row["input_json"])
    return Job(
        request_id=RequestId(row["request_id"]),
        tenant=TenantId(row["tenant"]),
        model=spec,
        submitted_ms=row["submitted_unix_ms"],
        priority=Priority(row["priority"]),
        work_units=row["work_units"],
        deadline_ms=row["deadline_unix_ms"],
        worker_hint=row["worker_hint"],
        second_worth_nanodollars=row["second_worth_nanodollars"],
        price_cap_nanodollars=row["price_cap_nanodollars"],
        start_deadline_ms=row["start_deadline_unix_ms"],
        attempts_max=row["attempts_max"],
        key_id=row["key_id"],
        batch_key=batch_key(given),
        outputs=output_units(given),
    )


def _attempt(row: RowMapping) -> AttemptRecord:
    return AttemptRecord(
        attempt_id=AttemptId(row["attempt_id"]),
        request_id=RequestId(row["request_id"]),
        number=row["attempt"],
        worker_id=WorkerId(row["worker_id"]),
        incarnation=row["incarnation"],
        gpu_type=row["gpu_type"],
        rate_nanodollars_per_second=row["rate_nanodollars_per_second"],
        price_version=row["price_version"],
        placed_ms=row["placed_unix_ms"],
        loading_ms=row["loading_unix_ms"],
        started_ms=row["started_unix_ms"],
        load_ms=row["load_ms"],
        metered_ms=row["metered_ms"],
        start_tier=Tier(row["start_tier"]) if row["start_tier"] else None,
        placement=row["placement"],
        unit=row["unit"],
        unit_price_nanodollars=row["unit_price_nanodollars"],
    )
