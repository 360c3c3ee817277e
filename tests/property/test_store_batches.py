"""However writes share transactions, and whatever is spared, the store ends up the same."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from quickthaw.scheduler.core import commands
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptId, Job
from quickthaw.scheduler.store.journal import JournalLimits
from quickthaw.scheduler.store.rows import command_rows
from quickthaw.scheduler.store.statements import Row, Statement
from quickthaw.scheduler.store.store import Store, open_store
from quickthaw.scheduler.store.write_behind import WriteBehind
from support import store_rows as rows

TABLES = ("requests", "attempts", "ledger")
Step = list[Row] | commands.JournalPlacement | commands.JournalProgress | commands.JournalMetered
"""Rows are written at once; what an open attempt has come to may be written behind."""


@st.composite
def a_life(draw: st.DrawFn, number: int) -> list[Step]:
    """The writes of one request, up to its end or to a moment before."""
    job = rows.a_job(number)
    steps: list[Step] = [rows.submit(job)]
    attempts = draw(st.integers(1, 3))
    for attempt in range(1, attempts + 1):
        steps += draw(an_attempt(job, attempt, last=attempt == attempts))
    return steps[: draw(st.integers(1, len(steps)))]


@st.composite
def an_attempt(draw: st.DrawFn, job: Job, number: int, *, last: bool) -> list[Step]:
    attempt = rows.an_attempt(job, number)
    steps: list[Step] = [commands.JournalPlacement(attempt)]
    for state in (RequestState.LOADING, RequestState.RUNNING):
        attempt = attempt._replace(loading_ms=attempt.loading_ms + 7, load_ms=number)
        steps.append(commands.JournalProgress(attempt, state))
    for metered_ms in draw(st.lists(st.integers(1, 400), max_size=3)):
        metered = ((AttemptId(attempt.attempt_id), metered_ms),)
        steps.append(commands.JournalMetered(metered))
    if draw(st.booleans()):
        steps.append(command_rows(commands.JournalCancel(job.request_id)))
    if last:
        steps.append(rows.succeed(job, attempt, rows.a_line(job, attempt)))
    else:
        steps.append(rows.lose(job, attempt, rows.a_line(job, attempt, waiver="worker_lost")))
    return steps


def step_rows(step: Step) -> list[Row]:
    return step if isinstance(step, list) else command_rows(step)


async def open_in(folder: Path, batch_max: int = 512) -> Store:
    store = await asyncio.to_thread(
        open_store,
        f"sqlite:///{folder / 'store.db'}",
        readers=1,
        lock_wait_seconds=0.0,
        limits=JournalLimits(batch_max=batch_max),
    )
    store.journal.start()
    return store


def tables_in(folder: Path) -> list[object]:
    connection = sqlite3.connect(folder / "store.db")
    held = [connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES]
    connection.close()
    return list(held)


async def written_at_once(steps: Sequence[Step], batch_max: int) -> list[object]:
    with tempfile.TemporaryDirectory() as folder:
        store = await open_in(Path(folder), batch_max)
        for step in steps:
            store.journal.keep(step_rows(step))
        await store.close()
        return tables_in(Path(folder))


async def written_behind(steps: Sequence[tuple[Step, bool]]) -> list[object]:
    """With each step, whether everything so far is written after it."""
    with tempfile.TemporaryDirectory() as folder:
        store = await open_in(Path(folder))
        behind = WriteBehind(lambda noted, _then: _keep(store, noted), 60.0)
        for step, flush in steps:
            if isinstance(step, list):
                for row in step:
                    if row.statement is Statement.END_ATTEMPT:
                        behind.forget(AttemptId(str(row.values["attempt_id"])))
                store.journal.keep(step)
            else:
                behind.note(step)
            if flush:
                behind.flush()
        behind.flush()
        await store.close()
        return tables_in(Path(folder))


def _keep(store: Store, noted: Sequence[Row]) -> None:
    store.journal.keep(noted)


@settings(max_examples=10)
@given(st.tuples(a_life(1), a_life(2)))
def test_one_large_transaction_leaves_what_many_small_ones_leave(
    lives: tuple[list[Step], ...],
) -> None:
    steps = [step for life in lives for step in life]
    together = asyncio.run(written_at_once(steps, batch_max=512))
    assert together == asyncio.run(written_at_once(steps, batch_max=1))


@settings(max_examples=20)
@given(a_life(1), st.data())
def test_what_is_written_behind_ends_up_as_if_every_step_had_been_written(
    life: list[Step], data: st.DataObject
) -> None:
    flushes = data.draw(st.lists(st.booleans(), min_size=len(life), max_size=len(life)))
    spared = asyncio.run(written_behind(list(zip(life, flushes, strict=True))))
    assert spared == asyncio.run(written_at_once(life, batch_max=1))


async def _rows_written_for_a_short_attempt() -> list[Row]:
    written: list[Row] = []
    behind = WriteBehind(lambda noted, _then: written.extend(noted), 60.0)
    attempt = rows.an_attempt(rows.a_job())
    behind.note(commands.JournalPlacement(attempt))
    behind.note(commands.JournalProgress(attempt, RequestState.RUNNING))
    behind.forget(attempt.attempt_id)
    behind.flush()
    return written


def test_an_attempt_that_ends_before_its_turn_is_spared_all_its_steps() -> None:
    assert asyncio.run(_rows_written_for_a_short_attempt()) == []


async def _told_of_run_times() -> list[str]:
    told: list[str] = []

    def write(noted: Sequence[Row], then: Sequence[Callable[[], None]]) -> None:
        told.extend(row.statement.name for row in noted)
        for action in then:
            action()

    behind = WriteBehind(write, 60.0)
    assert not behind.when_metered(lambda: told.append("nothing waits"))
    behind.note(commands.JournalMetered(((rows.an_attempt(rows.a_job()).attempt_id, 5),)))
    assert behind.when_metered(lambda: told.append("acknowledged"))
    behind.flush()
    return told


def test_a_run_time_is_acknowledged_after_it_was_written() -> None:
    assert asyncio.run(_told_of_run_times()) == ["METER_ATTEMPT", "acknowledged"]


async def _rows_of_a_request_begun_ahead() -> tuple[list[str], list[str], list[str]]:
    written: list[Row] = []
    behind = WriteBehind(lambda noted, _then: written.extend(noted), 60.0)
    ended, open_still = rows.a_job(1), rows.a_job(2)
    for job in (ended, open_still):
        behind.note_request(job.request_id, rows.submit(job))
    behind.note(commands.JournalPlacement(rows.an_attempt(open_still)))
    with_its_end = [row.statement.name for row in behind.take_request(ended.request_id)]
    again = [row.statement.name for row in behind.take_request(ended.request_id)]
    behind.flush()
    return with_its_end, again, [row.statement.name for row in written]


def test_a_request_begun_ahead_is_written_once_with_its_end_or_before_its_attempt() -> None:
    with_its_end, again, flushed = asyncio.run(_rows_of_a_request_begun_ahead())
    assert with_its_end == ["INSERT_REQUEST"]
    assert again == []
    assert flushed == ["INSERT_REQUEST", "OPEN_ATTEMPT", "UPDATE_REQUEST"]
