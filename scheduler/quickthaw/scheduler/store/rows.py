"""The core's writes as rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from quickthaw.scheduler.core import commands
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Job,
    LedgerLine,
    WorkerMark,
)
from quickthaw.scheduler.core.sanctions import Quarantine
from quickthaw.scheduler.store.account_rows import account_change_rows, settled_rows
from quickthaw.scheduler.store.statements import Row, Statement, Value
from quickthaw.scheduler.views import RequestView

JournalCommand = (
    commands.JournalPlacement
    | commands.JournalProgress
    | commands.JournalMetered
    | commands.JournalCancel
    | commands.JournalMark
    | commands.JournalQuarantine
    | commands.JournalReservation
    | commands.JournalAccount
    | commands.JournalEnd
)


@dataclass(frozen=True, slots=True)
class EndColumns:
    """What the wire's side makes of a terminal state: see `schema.requests`."""

    output_json: str
    end_proto: bytes


def request_rows(
    job: Job,
    *,
    model_version: str,
    input_json: str,
    idempotency: tuple[str, str] | None,
    io_kept_ms: int = 0,
    files_kept_ms: int = 0,
) -> list[Row]:
    """A new request, its idempotency key with the fingerprint of what was asked for, and how long
    its input and output, and its files, are kept if not for as long as itself."""
    rows = [
        Row(
            Statement.INSERT_REQUEST,
            {
                "request_id": job.request_id,
                "tenant": job.tenant,
                "model_id": job.model.id,
                "model_version": model_version,
                "snapshot_digest": job.model.snapshot_digest,
                "priority": int(job.priority),
                "state": RequestState.QUEUED.value,
                "input_json": input_json,
                "work_units": job.work_units,
                "submitted_unix_ms": job.submitted_ms,
                "deadline_unix_ms": job.deadline_ms,
                "worker_hint": job.worker_hint,
                "second_worth_nanodollars": job.second_worth_nanodollars,
                "price_cap_nanodollars": job.price_cap_nanodollars,
                "start_deadline_unix_ms": job.start_deadline_ms,
                "attempts_max": job.attempts_max,
                "key_id": job.key_id,
                "attempts": 0,
                "finished_unix_ms": 0,
                "cancel_requested": 0,
                "output_json": "",
                "end_proto": b"",
            },
        )
    ]
    if idempotency is not None:
        key, fingerprint = idempotency
        rows.append(
            Row(
                Statement.INSERT_IDEMPOTENCY,
                {
                    "tenant": job.tenant,
                    "idempotency_key": key,
                    "request_id": job.request_id,
                    "fingerprint": fingerprint,
                    "created_unix_ms": job.submitted_ms,
                },
            )
        )
    if io_kept_ms:
        rows.append(_short_lived(Statement.INSERT_SHORT_LIVED, job, io_kept_ms))
    if files_kept_ms:
        rows.append(_short_lived(Statement.INSERT_SHORT_LIVED_FILES, job, files_kept_ms))
    return rows


def _short_lived(statement: Statement, job: Job, kept_ms: int) -> Row:
    return Row(statement, {"request_id": job.request_id, "kept_ms": kept_ms})


def ended_rows(opening: Sequence[Row], ending: Sequence[Row]) -> list[Row]:
    """What opens a request, if that is not written yet, with what `command_rows` says of the end of
    its attempt. A request that begins and ends in one write is one row, which `opening` becomes."""
    if not opening or ending[-1].statement is not Statement.END_REQUEST:
        return [*opening, *ending]
    values, end = opening[0].values, ending[-1].values
    # The row was made for this write, and is nobody else's.
    values["state"] = end["state"]
    values["attempts"] = end["attempts"]
    values["finished_unix_ms"] = end["ended_unix_ms"]
    values["output_json"] = end["output_json"]
    values["end_proto"] = end["end_proto"]
    return [*opening, *ending[:-1]]


def refused_rows(view: RequestView, columns: EndColumns) -> list[Row]:
    """The end of a request that never reached the core; after its `request_rows`."""
    values: dict[str, Value] = {
        "key_request_id": view.request_id,
        "state": view.state.value,
        "attempts": 0,
        "ended_unix_ms": view.finished_ms,
        "output_json": columns.output_json,
        "end_proto": columns.end_proto,
    }
    return [Row(Statement.END_REQUEST, values)]


def command_rows(command: JournalCommand, end: EndColumns | None = None) -> list[Row]:
    """`end` is given with a JournalEnd whose request ends."""
    match command:
        case commands.JournalPlacement(attempt=attempt):
            return placement_rows(attempt, RequestState.PLACED)
        case commands.JournalProgress(attempt=attempt, state=state):
            return progress_rows(attempt, state)
        case commands.JournalMetered(metered_ms=metered):
            return metered_rows(metered)
        case commands.JournalCancel(request_id=request_id):
            return [Row(Statement.CANCEL_REQUEST, {"key_request_id": request_id})]
        case commands.JournalMark(mark=mark):
            return _mark_rows(mark)
        case commands.JournalQuarantine(quarantine=quarantine):
            return _quarantine_rows(quarantine)
        case commands.JournalAccount():
            return account_change_rows(command.account, command.change)
        case commands.JournalReservation(ledger=line, settled=settled):
            return [Row(Statement.INSERT_LEDGER, _ledger_values(line)), *settled_rows(settled)]
        case commands.JournalEnd():
            return _end_rows(command, end)
        case _:
            assert_never(command)


def placement_rows(attempt: AttemptRecord, state: RequestState) -> list[Row]:
    """An open attempt that was not written before, `state` being what it has come to."""
    return [
        Row(Statement.OPEN_ATTEMPT, _attempt_values(attempt, state.value, ended_ms=0)),
        _request_row(attempt.request_id, state, attempt.number),
    ]


def progress_rows(attempt: AttemptRecord, state: RequestState) -> list[Row]:
    """An open attempt that was."""
    values = {"key_attempt_id": attempt.attempt_id, **_progress_values(attempt)}
    return [
        Row(Statement.PROGRESS_ATTEMPT, {**values, "state": state.value}),
        _request_row(attempt.request_id, state, attempt.number),
    ]


def metered_rows(metered: Iterable[tuple[AttemptId, int]]) -> list[Row]:
    return [
        Row(Statement.METER_ATTEMPT, {"key_attempt_id": attempt_id, "metered_ms": metered_ms})
        for attempt_id, metered_ms in metered
    ]


def _mark_rows(mark: WorkerMark) -> list[Row]:
    values: dict[str, Value] = {
        "worker_id": mark.worker_id,
        "cordoned": int(mark.cordoned),
        "draining": int(mark.draining),
        "stop": int(mark.stop),
        "incarnation": mark.incarnation,
    }
    rows = [Row(Statement.MARK_WORKER, values)]
    if mark.empty:
        rows.append(Row(Statement.UNMARK_WORKER, {"key_worker_id": mark.worker_id}))
    return rows


def _quarantine_rows(quarantine: Quarantine) -> list[Row]:
    values: dict[str, Value] = {
        "model_id": quarantine.model,
        "snapshot_digest": quarantine.snapshot_digest,
        "reason": quarantine.reason,
        "since_unix_ms": quarantine.since_ms,
    }
    rows = [Row(Statement.QUARANTINE_MODEL, values)]
    if not quarantine.reason:
        rows.append(Row(Statement.RELEASE_MODEL, {"key_model_id": quarantine.model}))
    return rows


def _end_rows(command: commands.JournalEnd, end: EndColumns | None) -> list[Row]:
    rows: list[Row] = []
    attempt, line = command.attempt, command.ledger
    if attempt is not None:
        outcome = line.outcome.value if line is not None else "failed"
        closed_ms = line.closed_ms if line is not None else attempt.placed_ms
        rows.append(
            Row(Statement.END_ATTEMPT, _attempt_values(attempt, outcome, ended_ms=closed_ms))
        )
    if line is not None:
        rows.append(Row(Statement.INSERT_LEDGER, _ledger_values(line)))
    rows.extend(settled_rows(command.settled))
    number = attempt.number if attempt is not None else 0
    match command.then:
        case commands.Requeued():
            rows.append(_request_row(command.job.request_id, RequestState.QUEUED, number))
        case commands.RequestEnd() as then:
            columns = end or EndColumns("", b"")
            rows.append(
                Row(
                    Statement.END_REQUEST,
                    {
                        "key_request_id": command.job.request_id,
                        "state": then.state.value,
                        "attempts": then.receipt.attempts,
                        "ended_unix_ms": then.finished_ms,
                        "output_json": columns.output_json,
                        "end_proto": columns.end_proto,
                    },
                )
            )
        case _:
            assert_never(command.then)
    return rows


def _request_row(request_id: str, state: RequestState, attempts: int) -> Row:
    return Row(
        Statement.UPDATE_REQUEST,
        {"key_request_id": request_id, "state": state.value, "attempts": attempts},
    )


def _progress_values(attempt: AttemptRecord) -> dict[str, Value]:
    return {
        "loading_unix_ms": attempt.loading_ms,
        "started_unix_ms": attempt.started_ms,
        "load_ms": attempt.load_ms,
        "start_tier": int(attempt.start_tier or 0),
    }


def _attempt_values(attempt: AttemptRecord, state: str, *, ended_ms: int) -> dict[str, Value]:
    return {
        "attempt_id": attempt.attempt_id,
        "request_id": attempt.request_id,
        "attempt": attempt.number,
        "worker_id": attempt.worker_id,
        "incarnation": attempt.incarnation,
        "gpu_type": attempt.gpu_type,
        "state": state,
        "rate_nanodollars_per_second": attempt.rate_nanodollars_per_second,
        "price_version": attempt.price_version,
        "placed_unix_ms": attempt.placed_ms,
        **_progress_values(attempt),
        "metered_ms": attempt.metered_ms,
        "ended_unix_ms": ended_ms,
        "placement": attempt.placement,
        "unit": attempt.unit,
        "unit_price_nanodollars": attempt.unit_price_nanodollars,
    }


def _ledger_values(line: LedgerLine) -> dict[str, Value]:
    return {
        "attempt_id": line.attempt_id,
        "request_id": line.request_id,
        "tenant": line.tenant,
        "model_id": line.model,
        "worker_id": line.worker_id,
        "gpu_type": line.gpu_type,
        "attempt": line.attempt,
        "outcome": line.outcome.value,
        "closed_unix_ms": line.closed_ms,
        "metered_ms": line.metered_ms,
        "billed_ms": line.billed_ms,
        "rate_nanodollars_per_second": line.rate_nanodollars_per_second,
        "price_nanodollars": line.price_nanodollars,
        "price_version": line.price_version,
        "waiver": line.waiver,
        "key_id": line.key_id,
        "unit": line.unit,
        "micro_units": line.micro_units,
        "unit_price_nanodollars": line.unit_price_nanodollars,
    }
