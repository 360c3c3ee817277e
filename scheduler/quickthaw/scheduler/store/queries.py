"""What is read from the store, as our types. Each function takes a connection of the reader's."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    RowMapping,
    and_,
    func,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.engine import Connection

from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptId,
    LedgerLine,
    ModelId,
    Outcome,
    Priority,
    RequestId,
    TenantId,
    WorkerId,
)
from quickthaw.scheduler.store import schema
from quickthaw.scheduler.views import RequestView

_requests = schema.requests.c
_ledger = schema.ledger.c
_EPOCH = datetime.date(1970, 1, 1)
DAY_MS = 86_400_000


def view_from_row(row: RowMapping) -> RequestView:
    return RequestView(
        request_id=row["request_id"],
        tenant=row["tenant"],
        model=row["model_id"],
        snapshot_digest=row["snapshot_digest"],
        priority=Priority(row["priority"]),
        input_json=row["input_json"],
        submitted_ms=row["submitted_unix_ms"],
        deadline_ms=row["deadline_unix_ms"],
        state=RequestState(row["state"]),
        attempts=row["attempts"],
        finished_ms=row["finished_unix_ms"],
        output_json=row["output_json"],
        end_proto=bytes(row["end_proto"]),
    )


def request_view(connection: Connection, request_id: str) -> RequestView | None:
    statement = select(schema.requests).where(_requests.request_id == request_id)
    row = connection.execute(statement).mappings().one_or_none()
    return view_from_row(row) if row is not None else None


def request_page(
    connection: Connection,
    tenant: str,
    *,
    before_id: str,
    states: Sequence[RequestState],
    model_id: str,
    size: int,
) -> list[RequestView]:
    """Newest first; those older than `before_id` unless it is empty."""
    statement = select(schema.requests).where(_requests.tenant == tenant)
    if before_id:
        statement = statement.where(_requests.request_id < before_id)
    if states:
        statement = statement.where(_requests.state.in_([state.value for state in states]))
    if model_id:
        statement = statement.where(_requests.model_id == model_id)
    statement = statement.order_by(_requests.request_id.desc()).limit(size)
    return [view_from_row(row) for row in connection.execute(statement).mappings()]


def idempotent_request(
    connection: Connection, tenant: str, key: str, since_ms: int
) -> tuple[str, str] | None:
    """The request id and fingerprint that a key stands for, if it is young enough."""
    columns = schema.idempotency.c
    statement = select(columns.request_id, columns.fingerprint).where(
        columns.tenant == tenant,
        columns.idempotency_key == key,
        columns.created_unix_ms >= since_ms,
    )
    row = connection.execute(statement).one_or_none()
    return (row[0], row[1]) if row is not None else None


# ---- ledger ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Period:
    """Of one tenant. `until_ms` is exclusive; 0 for no end."""

    tenant: str
    from_ms: int = 0
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums; what they are not told apart by is empty. `day` is `2026-11-23`, in UTC."""

    model: str
    gpu_type: str
    requests: int
    attempts: int
    metered_ms: int
    billed_ms: int
    price_nanodollars: int
    key_id: str = ""
    day: str = ""


class Dimension(Enum):
    """What sums are told apart by."""

    MODEL = "model"
    GPU_TYPE = "gpu_type"
    KEY = "key_id"
    DAY = "day"


_DIMENSIONS: Mapping[Dimension, ColumnElement[Any]] = {
    Dimension.MODEL: _ledger.model_id,
    Dimension.GPU_TYPE: _ledger.gpu_type,
    Dimension.KEY: _ledger.key_id,
    # Whole days since 1970.
    Dimension.DAY: _ledger.closed_unix_ms // literal_column(str(DAY_MS), BigInteger),
}


def _in_period(period: Period) -> ColumnElement[bool]:
    until = _ledger.closed_unix_ms < period.until_ms if period.until_ms else true()
    return and_(_ledger.tenant == period.tenant, _ledger.closed_unix_ms >= period.from_ms, until)


def ledger_page(
    connection: Connection, period: Period, *, request_id: str, after: tuple[int, str], size: int
) -> list[LedgerLine]:
    """Oldest first, after the line that closed at `after`."""
    closed_ms, attempt_id = after
    statement = select(schema.ledger).where(
        _in_period(period),
        or_(
            _ledger.closed_unix_ms > closed_ms,
            and_(_ledger.closed_unix_ms == closed_ms, _ledger.attempt_id > attempt_id),
        ),
    )
    if request_id:
        statement = statement.where(_ledger.request_id == request_id)
    statement = statement.order_by(_ledger.closed_unix_ms, _ledger.attempt_id).limit(size)
    return [_line(row) for row in connection.execute(statement).mappings()]


def _line(row: RowMapping) -> LedgerLine:
    return LedgerLine(
        attempt_id=AttemptId(row["attempt_id"]),
        request_id=RequestId(row["request_id"]),
        tenant=TenantId(row["tenant"]),
        model=ModelId(row["model_id"]),
        worker_id=WorkerId(row["worker_id"]),
        gpu_type=row["gpu_type"],
        attempt=row["attempt"],
        outcome=Outcome(row["outcome"]),
        closed_ms=row["closed_unix_ms"],
        metered_ms=row["metered_ms"],
        billed_ms=row["billed_ms"],
        rate_nanodollars_per_second=row["rate_nanodollars_per_second"],
        price_nanodollars=row["price_nanodollars"],
        price_version=row["price_version"],
        waiver=row["waiver"],
        key_id=row["key_id"],
        unit=row["unit"],
        micro_units=row["micro_units"],
        unit_price_nanodollars=row["unit_price_nanodollars"],
    )


def usage(
    connection: Connection,
    period: Period,
    by: Sequence[Dimension] = (Dimension.MODEL, Dimension.GPU_TYPE),
    lines_max: int = 10_000,
) -> tuple[list[Usage], Usage]:
    """By what is named, sorted by it in that order, and in total."""
    sums = (
        func.count(func.distinct(_ledger.request_id)),
        func.count(_ledger.attempt_id),
        func.coalesce(func.sum(_ledger.metered_ms), 0),
        func.coalesce(func.sum(_ledger.billed_ms), 0),
        func.coalesce(func.sum(_ledger.price_nanodollars), 0),
    )
    names = [_DIMENSIONS[dimension] for dimension in by]
    lines = select(*names, *sums).where(_in_period(period)).group_by(*names).order_by(*names)
    found = [_usage(by, tuple(row)) for row in connection.execute(lines.limit(lines_max))]
    total = connection.execute(select(*sums).where(_in_period(period))).one()
    return found, _usage((), tuple(total))


def _usage(by: Sequence[Dimension], row: tuple[Any, ...]) -> Usage:
    told = dict(zip(by, row[: len(by)], strict=True))
    # PostgreSQL's sums are decimals.
    requests, attempts, metered_ms, billed_ms, price = (int(number) for number in row[len(by) :])
    day = told.get(Dimension.DAY)
    return Usage(
        model=told.get(Dimension.MODEL, ""),
        gpu_type=told.get(Dimension.GPU_TYPE, ""),
        requests=requests,
        attempts=attempts,
        metered_ms=metered_ms,
        billed_ms=billed_ms,
        price_nanodollars=price,
        key_id=told.get(Dimension.KEY, ""),
        day="" if day is None else str(_EPOCH + datetime.timedelta(days=day)),
    )
