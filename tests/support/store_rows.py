"""Rows and core commands for tests of the store."""

from __future__ import annotations

from quickthaw.scheduler.catalog import CatalogModel
from quickthaw.scheduler.convert.models import catalog_model
from quickthaw.scheduler.core import commands
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptRecord,
    Job,
    LedgerLine,
    Outcome,
    OutputUnits,
    Receipt,
    RequestId,
    TenantId,
    WorkerId,
    attempt_id_of,
)
from quickthaw.scheduler.releasing import register_rows
from quickthaw.scheduler.store.rows import EndColumns, command_rows, request_rows
from quickthaw.scheduler.store.statements import Row
from support.schedulers import a_model

RATE = 20_000


def the_model() -> CatalogModel:
    return catalog_model(a_model(), now_ms=1)


def model_rows() -> list[Row]:
    return register_rows(the_model())


def a_job(number: int = 1, *, tenant: str = "default", submitted_ms: int = 1_000) -> Job:
    return Job(
        request_id=RequestId(f"req_{number:06}"),
        tenant=TenantId(tenant),
        model=the_model().spec,
        submitted_ms=submitted_ms,
        work_units=2.5,
        worker_hint="near",
        price_cap_nanodollars=7,
        key_id="somekey",
        outputs=OutputUnits(images=1),
        batch_key="{}",
    )


def submit(job: Job, idempotency: tuple[str, str] | None = None) -> list[Row]:
    return request_rows(
        job,
        model_version=the_model().version,
        input_json='{"prompt":"x"}',
        idempotency=idempotency,
    )


def an_attempt(
    job: Job, number: int = 1, *, worker: str = "w1", metered_ms: int = 0
) -> AttemptRecord:
    return AttemptRecord(
        attempt_id=attempt_id_of(job.request_id, number),
        request_id=job.request_id,
        number=number,
        worker_id=WorkerId(worker),
        incarnation="boot",
        gpu_type="cpu",
        rate_nanodollars_per_second=RATE,
        price_version="v",
        placed_ms=1_100,
        placement="best of 1",
    )


def place(attempt: AttemptRecord) -> list[Row]:
    return command_rows(commands.JournalPlacement(attempt))


def a_line(
    job: Job,
    attempt: AttemptRecord,
    *,
    closed_ms: int = 2_000,
    metered_ms: int = 500,
    waiver: str = "",
) -> LedgerLine:
    billed_ms = 0 if waiver else metered_ms
    return LedgerLine(
        attempt_id=attempt.attempt_id,
        request_id=job.request_id,
        tenant=job.tenant,
        model=job.model.id,
        worker_id=attempt.worker_id,
        gpu_type="cpu",
        attempt=attempt.number,
        outcome=Outcome.FAILED if waiver else Outcome.SUCCEEDED,
        closed_ms=2_000,
        metered_ms=metered_ms,
        billed_ms=billed_ms,
        rate_nanodollars_per_second=RATE,
        price_nanodollars=billed_ms * RATE // 1000,
        price_version="v",
        waiver=waiver,
    )


def succeed(job: Job, attempt: AttemptRecord, line: LedgerLine) -> list[Row]:
    receipt = Receipt(job.request_id, job.model.id, attempt.number, queue_ms=100)
    end = commands.RequestEnd(RequestState.SUCCEEDED, line.closed_ms, receipt)
    command = commands.JournalEnd(job, attempt, line, end)
    return command_rows(command, EndColumns('{"images":[]}', b""))


def lose(job: Job, attempt: AttemptRecord, line: LedgerLine) -> list[Row]:
    return command_rows(commands.JournalEnd(job, attempt, line, commands.Requeued("lost")))
