"""However writes share transactions, the store ends up the same."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from quickthaw.scheduler.core import commands
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptId, Job
from quickthaw.scheduler.store.journal import JournalLimits
from quickthaw.scheduler.store.rows import command_rows
from quickthaw.scheduler.store.statements import Row
from quickthaw.scheduler.store.store import open_store
from support import store_rows as rows

TABLES = ("requests", "attempts", "ledger")


@st.composite
def a_life(draw: st.DrawFn, number: int) -> list[list[Row]]:
    """The writes of one request, up to its end or to a moment before."""
    job = rows.a_job(number)
    writes = [rows.submit(job)]
    for attempt in range(1, draw(st.integers(1, 3)) + 1):
        writes += draw(an_attempt(job, attempt))
    return writes[: draw(st.integers(1, len(writes)))]


@st.composite
def an_attempt(draw: st.DrawFn, job: Job, number: int) -> list[list[Row]]:
    attempt = rows.an_attempt(job, number)
    writes = [rows.place(attempt)]
    for state in (RequestState.LOADING, RequestState.RUNNING):
        attempt = dataclasses.replace(attempt, loading_ms=attempt.loading_ms + 7, load_ms=number)
        writes.append(command_rows(commands.JournalProgress(attempt, state)))
    for metered_ms in draw(st.lists(st.integers(1, 400), max_size=3)):
        metered = ((AttemptId(attempt.attempt_id), metered_ms),)
        writes.append(command_rows(commands.JournalMetered(metered)))
    if draw(st.booleans()):
        writes.append(command_rows(commands.JournalCancel(job.request_id)))
    if draw(st.booleans()):
        writes.append(rows.lose(job, attempt, rows.a_line(job, attempt, waiver="worker_lost")))
    else:
        writes.append(rows.succeed(job, attempt, rows.a_line(job, attempt)))
    return writes


async def contents(folder: Path, batches: Sequence[Sequence[Sequence[Row]]]) -> list[object]:
    """What the tables hold after these writes, those of a batch in one transaction."""
    file = folder / "store.db"
    store = await asyncio.to_thread(
        open_store,
        f"sqlite:///{file}",
        readers=1,
        lock_wait_seconds=0.0,
        limits=JournalLimits(write_behind_seconds=60.0),
    )
    store.journal.start()
    for batch in batches:
        for write in batch[:-1]:
            store.journal.keep(write, behind=True)
        await store.journal.keep(batch[-1])
    await store.close()
    connection = sqlite3.connect(file)
    held = [connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES]
    connection.close()
    return list(held)


@settings(max_examples=10, deadline=None)
@given(st.tuples(a_life(1), a_life(2)))
def test_one_large_transaction_leaves_what_many_small_ones_leave(
    lives: tuple[list[list[Row]], ...],
) -> None:
    writes = [write for life in lives for write in life]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as many:
        together = asyncio.run(contents(Path(one), [writes]))
        apart = asyncio.run(contents(Path(many), [[write] for write in writes]))
    assert together == apart


async def _held_back(folder: Path) -> tuple[bool, bool]:
    store = await asyncio.to_thread(
        open_store,
        f"sqlite:///{folder / 'store.db'}",
        readers=1,
        lock_wait_seconds=0.0,
        limits=JournalLimits(write_behind_seconds=60.0),
    )
    store.journal.start()
    job = rows.a_job()
    behind = store.journal.keep(rows.place(rows.an_attempt(job)), behind=True)
    await store.journal.offer(rows.model_rows())
    with_the_next = behind.done()
    last = store.journal.keep(rows.place(rows.an_attempt(rows.a_job(2))), behind=True)
    before_close = last.done()
    await store.close()
    await last
    return with_the_next, before_close


def test_a_write_behind_goes_along_with_the_next_one_or_with_the_closing(tmp_path: Path) -> None:
    assert asyncio.run(_held_back(tmp_path)) == (True, False)
