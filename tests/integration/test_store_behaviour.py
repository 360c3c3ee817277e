"""What the store promises, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import Connection

from quickthaw.scheduler.core import commands
from quickthaw.scheduler.core.events import RequestRecovered
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptId, WorkerId, WorkerMark
from quickthaw.scheduler.store import schema
from quickthaw.scheduler.store.database import open_engine, parse_url
from quickthaw.scheduler.store.journal import JournalLimits
from quickthaw.scheduler.store.queries import (
    Period,
    idempotent_request,
    ledger_page,
    request_page,
    request_view,
    usage,
)
from quickthaw.scheduler.store.recovery import catalog_models, open_requests, worker_marks
from quickthaw.scheduler.store.rows import command_rows
from quickthaw.scheduler.store.statements import Row, Statement
from quickthaw.scheduler.store.store import Store, open_store
from quickthaw.scheduler.views import RequestView
from quickthaw.wire import errors
from support import store_rows as rows
from support.patience import PATIENCE_SECONDS
from support.store_servers import PostgresServer

DEFAULT = Period("default")
W1 = WorkerId("w1")


async def opened(url: str, limits: JournalLimits | None = None) -> Store:
    store = await asyncio.to_thread(
        open_store,
        url,
        readers=2,
        lock_wait_seconds=0.0,
        limits=limits or JournalLimits(backoff_first_seconds=0.01, backoff_max_seconds=0.05),
    )
    store.journal.start()
    return store


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    store = await opened(store_url)
    await store.journal.offer(rows.model_rows())
    yield store
    await store.close()


async def recovered(store: Store) -> dict[str, RequestRecovered]:
    found = await store.reader.run(lambda connection: list(open_requests(connection)))
    return {each.view.request_id: each.event for each in found}


async def test_the_migrations_build_exactly_the_tables_that_the_code_uses(
    store: Store, store_url: str
) -> None:
    engine = open_engine(parse_url(store_url), connections_max=1)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


async def test_a_registered_model_reads_back_as_it_was_written(store: Store) -> None:
    assert await store.reader.run(catalog_models) == [rows.the_model()]


async def test_an_accepted_request_is_recovered_with_all_that_placement_needs(store: Store) -> None:
    job = rows.a_job()
    await store.journal.offer(rows.submit(job))
    [event] = (await recovered(store)).values()
    assert event.job == job
    assert (event.attempts, event.open_attempt, event.cancel_requested) == (0, None, False)


async def test_an_open_attempt_is_recovered_with_its_last_metered_time(store: Store) -> None:
    job, attempt = rows.a_job(), rows.an_attempt(rows.a_job())
    running = attempt._replace(loading_ms=1_200, started_ms=1_300, load_ms=90)
    await store.journal.offer(rows.submit(job))
    store.journal.keep(rows.place(attempt))
    store.journal.keep(command_rows(commands.JournalProgress(running, RequestState.RUNNING)))
    metered = ((AttemptId(attempt.attempt_id), 240),)
    await store.journal.keep(command_rows(commands.JournalMetered(metered)))
    await store.journal.keep(command_rows(commands.JournalCancel(job.request_id)))
    [event] = (await recovered(store)).values()
    assert event.open_attempt == running._replace(metered_ms=240)
    assert event.open_state is RequestState.RUNNING
    assert event.cancel_requested


async def test_the_last_mark_of_a_worker_stays_however_writes_are_batched(store: Store) -> None:
    """A batch runs its statements in a fixed order, not in the order of arrival."""
    on, off = WorkerMark(W1, cordoned=True), WorkerMark(W1)
    drain = WorkerMark(W1, draining=True, stop=True, incarnation="boot")
    for marks, left in (([on, off, drain], [drain]), ([on, off], []), ([off, on], [on])):
        rows_of = [row for mark in marks for row in command_rows(commands.JournalMark(mark))]
        await store.journal.keep(rows_of)
        found = await store.reader.run(worker_marks)
        assert [each.mark for each in found] == left


@pytest.mark.parametrize(
    ("waiver", "lost_on", "killed_on"),
    [
        ("worker_lost", {"w1"}, ("w1",)),
        ("failed:not_found", {"w1"}, ()),
        ("failed:moved", set[str](), ()),
    ],
)
async def test_a_lost_attempt_leaves_its_request_queued_and_its_worker_remembered(
    store: Store, waiver: str, lost_on: set[str], killed_on: tuple[str, ...]
) -> None:
    """What could not load on a worker killed nothing; what was moved is welcome there again."""
    job = rows.a_job()
    attempt = rows.an_attempt(job)._replace(loading_ms=1_200)
    await store.journal.offer(rows.submit(job))
    store.journal.keep(rows.place(attempt))
    await store.journal.keep(rows.lose(job, attempt, rows.a_line(job, attempt, waiver=waiver)))
    [event] = (await recovered(store)).values()
    assert (event.attempts, event.open_attempt) == (1, None)
    assert event.lost_on == lost_on
    assert event.killed_on == killed_on
    view = await store.reader.run(lambda c: request_view(c, job.request_id))
    assert view is not None
    assert view.state is RequestState.QUEUED


async def test_an_end_is_one_ledger_line_however_often_it_is_written(store: Store) -> None:
    job, attempt = rows.a_job(), rows.an_attempt(rows.a_job())
    line = rows.a_line(job, attempt)
    await store.journal.offer(rows.submit(job))
    for metered_ms in (500, 900):
        again = rows.a_line(job, attempt, metered_ms=metered_ms)
        await store.journal.keep(rows.succeed(job, attempt, again))
    assert await recovered(store) == {}
    found = await store.reader.run(
        lambda c: ledger_page(c, DEFAULT, request_id="", after=(-1, ""), size=10)
    )
    assert found == [line]
    _lines, total = await store.reader.run(lambda c: usage(c, DEFAULT))
    assert (total.attempts, total.metered_ms, total.price_nanodollars) == (1, 500, 10_000)


async def test_a_terminal_state_is_never_left(store: Store) -> None:
    job, attempt = rows.a_job(), rows.an_attempt(rows.a_job())
    await store.journal.offer(rows.submit(job))
    await store.journal.keep(rows.succeed(job, attempt, rows.a_line(job, attempt)))
    late = rows.an_attempt(job, 2, worker="w2")
    await store.journal.keep(rows.place(late))
    view = await store.reader.run(lambda c: request_view(c, job.request_id))
    assert view is not None
    assert (view.state, view.finished_ms) == (RequestState.SUCCEEDED, 2_000)


async def test_an_end_whose_placement_was_never_written_still_has_its_attempt(store: Store) -> None:
    job, attempt = rows.a_job(), rows.an_attempt(rows.a_job())
    await store.journal.offer(rows.submit(job))
    await store.journal.keep(rows.succeed(job, attempt, rows.a_line(job, attempt)))
    columns = schema.attempts.c
    statement = schema.attempts.select().with_only_columns(columns.attempt_id, columns.state)
    assert list(await store.reader.rows(statement)) == [(attempt.attempt_id, "succeeded")]


async def test_writes_of_one_batch_keep_their_order_within_a_request(store: Store) -> None:
    """All of it in one commit: lost, queued again, placed elsewhere."""
    job = rows.a_job()
    first, second = rows.an_attempt(job), rows.an_attempt(job, 2, worker="w2")
    lost = rows.a_line(job, first, waiver="worker_lost")
    writes = [
        store.journal.offer(rows.submit(job)),
        store.journal.keep(rows.place(first)),
        store.journal.keep(rows.lose(job, first, lost)),
        store.journal.keep(rows.place(second)),
    ]
    await asyncio.gather(*writes)
    [event] = (await recovered(store)).values()
    assert event.open_attempt == second
    view = await store.reader.run(lambda c: request_view(c, job.request_id))
    assert view is not None
    assert (view.state, view.attempts) == (RequestState.PLACED, 2)


async def test_one_impossible_write_does_not_take_its_batch_with_it(store: Store) -> None:
    good, bad = rows.a_job(1), rows.a_job(2)
    await store.journal.offer(rows.submit(bad))
    results = await asyncio.gather(
        store.journal.offer(rows.submit(good)),
        store.journal.offer(rows.submit(bad)),
        store.journal.offer(rows.submit(rows.a_job(3))),
        return_exceptions=True,
    )
    assert isinstance(results[1], errors.Internal)
    assert (results[0], results[2]) == (None, None)
    assert set(await recovered(store)) == {"req_000001", "req_000002", "req_000003"}


@pytest.mark.parametrize("too_large", [False, True])
async def test_a_write_that_no_store_would_take_is_told_and_not_tried_for_ever(
    store: Store, too_large: bool
) -> None:
    """A statement without one of its values, or with a number of more than 64 bits: nothing that
    waiting mends, even for what happened."""
    attempt = rows.an_attempt(rows.a_job(1))
    [first, *others] = rows.place(attempt)
    values = {**first.values, "placed_unix_ms": 1 << 80}
    if not too_large:
        del values["worker_id"]
    maimed = Row(first.statement, values)
    results = await asyncio.gather(
        store.journal.offer(rows.submit(rows.a_job(1))),
        store.journal.keep([maimed, *others]),
        store.journal.offer(rows.submit(rows.a_job(2))),
        return_exceptions=True,
    )
    assert isinstance(results[1], errors.Internal)
    assert (results[0], results[2]) == (None, None)
    assert not store.journal.faulty
    assert set(await recovered(store)) == {"req_000001", "req_000002"}


async def test_an_idempotency_key_is_found_until_its_retention_ends(store: Store) -> None:
    job = rows.a_job(submitted_ms=5_000)
    await store.journal.offer(rows.submit(job, ("key", "print")))
    found = await store.reader.run(lambda c: idempotent_request(c, "default", "key", 5_000))
    assert found == (job.request_id, "print")
    assert await store.reader.run(lambda c: idempotent_request(c, "default", "key", 5_001)) is None
    assert await store.reader.run(lambda c: idempotent_request(c, "other", "key", 0)) is None
    purge = Row(Statement.PURGE_IDEMPOTENCY, {"key_created_unix_ms": 5_001})
    await store.journal.keep([purge])
    assert await store.reader.run(lambda c: idempotent_request(c, "default", "key", 0)) is None


async def test_pages_walk_every_request_once_newest_first(store: Store) -> None:
    jobs = [rows.a_job(number) for number in range(7)]
    await asyncio.gather(*(store.journal.offer(rows.submit(job)) for job in jobs))
    seen: list[str] = []

    def next_page(connection: Connection) -> list[RequestView]:
        before = seen[-1] if seen else ""
        return request_page(connection, "default", before_id=before, states=[], model_id="", size=3)

    while True:
        page = await store.reader.run(next_page)
        seen.extend(view.request_id for view in page)
        if len(page) < 3:
            break
    assert seen == [job.request_id for job in reversed(jobs)]


async def test_ledger_pages_walk_lines_that_closed_in_the_same_millisecond(store: Store) -> None:
    for number in range(5):
        job = rows.a_job(number)
        attempt = rows.an_attempt(job)
        await store.journal.offer(rows.submit(job))
        await store.journal.keep(rows.succeed(job, attempt, rows.a_line(job, attempt)))
    first = await store.reader.run(
        lambda c: ledger_page(c, DEFAULT, request_id="", after=(-1, ""), size=3)
    )
    last = (first[-1].closed_ms, str(first[-1].attempt_id))
    rest = await store.reader.run(
        lambda c: ledger_page(c, DEFAULT, request_id="", after=last, size=3)
    )
    assert [line.request_id for line in first + rest] == [f"req_{n:06}" for n in range(5)]


async def test_sums_stay_whole_beyond_32_bits(store: Store) -> None:
    for number in range(3):
        job = rows.a_job(number)
        attempt = rows.an_attempt(job)
        line = rows.a_line(job, attempt, metered_ms=2**40)
        await store.journal.offer(rows.submit(job))
        await store.journal.keep(rows.succeed(job, attempt, line))
    lines, total = await store.reader.run(lambda c: usage(c, DEFAULT))
    assert total.metered_ms == 3 * 2**40
    assert [line.price_nanodollars for line in lines] == [3 * (2**40 * rows.RATE // 1000)]


async def test_a_second_scheduler_is_kept_out_until_the_first_has_gone(store_url: str) -> None:
    first = await opened(store_url)
    with pytest.raises(errors.FailedPrecondition, match="another scheduler"):
        await opened(store_url)
    await first.close()
    second = await opened(store_url)
    await second.close()


async def test_a_store_that_a_newer_release_wrote_is_refused(store_url: str) -> None:
    store = await opened(store_url)
    await store.close()
    engine = open_engine(parse_url(store_url), connections_max=1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(errors.FailedPrecondition, match="9999, which is newer"):
        await opened(store_url)


async def test_what_waits_at_close_is_committed(store_url: str) -> None:
    store = await opened(store_url)
    await store.journal.offer(rows.model_rows())
    writes = [store.journal.offer(rows.submit(rows.a_job(number))) for number in range(50)]
    await store.close()
    assert all(write.done() and write.exception() is None for write in writes)
    again = await opened(store_url)
    assert len(await recovered(again)) == 50
    await again.close()


async def test_a_journal_that_is_behind_refuses_new_work_but_keeps_what_happened(
    store_url: str,
) -> None:
    store = await opened(store_url, JournalLimits(waiting_max=2))
    await store.journal.offer(rows.model_rows())
    # Nothing is awaited in between, so at most one batch leaves the queue.
    taken = [store.journal.offer(rows.submit(rows.a_job(number))) for number in range(2)]
    while not store.journal.behind:
        taken.append(store.journal.offer(rows.submit(rows.a_job(len(taken)))))
    with pytest.raises(errors.Unavailable, match="writes are waiting") as caught:
        store.journal.offer(rows.submit(rows.a_job(len(taken))))
    assert caught.value.retry_delay_seconds is not None
    attempt = rows.an_attempt(rows.a_job(1))
    await store.journal.keep(rows.place(attempt))
    assert all(write.done() for write in taken)
    await store.close()


async def test_a_postgresql_that_goes_away_loses_nothing_that_happened(
    postgres: PostgresServer,
) -> None:
    store = await opened(postgres.new_database())
    await store.journal.offer(rows.model_rows())
    job, attempt = rows.a_job(), rows.an_attempt(rows.a_job())
    await store.journal.offer(rows.submit(job))
    postgres.stop()
    try:
        with pytest.raises(errors.StoreUnavailable):
            await store.journal.offer(rows.submit(rows.a_job(2)))
        kept = store.journal.keep(rows.succeed(job, attempt, rows.a_line(job, attempt)))
        with pytest.raises(errors.StoreUnavailable):
            await store.reader.run(catalog_models)
        assert store.journal.faulty
        assert not kept.done()
    finally:
        postgres.start()
    await asyncio.wait_for(kept, PATIENCE_SECONDS)
    assert not store.journal.faulty
    assert await recovered(store) == {}
    await store.close()


async def test_a_full_sqlite_disk_refuses_new_work_and_recovers(tmp_path: Path) -> None:
    store = await opened(f"sqlite:///{tmp_path / 'store.db'}")
    await store.journal.offer(rows.model_rows())
    job, attempt = rows.a_job(), rows.an_attempt(rows.a_job())
    await store.journal.offer(rows.submit(job))

    def limit_pages(pages: int) -> None:
        # Through the writer's own connection, between two batches: the limit is a connection's.
        connection = store.journal._writer.connection()
        with connection.begin():
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    limit_pages(1)
    large = dataclasses.replace(rows.a_job(2), worker_hint="x" * 200_000)
    with pytest.raises(errors.StorageFull, match="free space"):
        await store.journal.offer(rows.submit(large))
    # A failed transaction costs its connection; the next one has room again.
    await store.journal.offer(rows.submit(large))
    await store.journal.keep(rows.succeed(job, attempt, rows.a_line(job, attempt)))
    assert set(await recovered(store)) == {"req_000002"}
    await store.close()


def test_sqlite_is_set_up_to_survive_the_machine(tmp_path: Path) -> None:
    engine = open_engine(parse_url(f"sqlite:///{tmp_path / 'store.db'}"), connections_max=1)
    with engine.connect() as connection:
        journal_mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
    engine.dispose()
    assert (journal_mode, synchronous) == ("wal", 2)
    assert sqlite3.sqlite_version_info >= (3, 24)
