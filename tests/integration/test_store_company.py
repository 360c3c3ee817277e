"""Under load a commit waits a little for company; what begins and ends in one is one row."""

from __future__ import annotations

import asyncio
from pathlib import Path

from quickthaw.scheduler.store.journal import JournalLimits
from quickthaw.scheduler.store.queries import request_view
from quickthaw.scheduler.store.recovery import open_requests
from quickthaw.scheduler.store.rows import ended_rows
from quickthaw.scheduler.store.statements import Statement
from quickthaw.scheduler.store.store import Store, open_store
from support import store_rows as rows


async def opened(folder: Path, limits: JournalLimits, commits: list[int]) -> Store:
    store = await asyncio.to_thread(
        open_store,
        f"sqlite:///{folder / 'scheduler.db'}",
        readers=1,
        lock_wait_seconds=0.0,
        limits=limits,
        on_commit=lambda _seconds, writes: commits.append(writes),
    )
    store.journal.start()
    return store


async def test_after_a_busy_commit_the_next_one_waits_for_company(tmp_path: Path) -> None:
    commits: list[int] = []
    store = await opened(tmp_path, JournalLimits(busy_writes=1, gather_seconds=60.0), commits)
    await store.journal.offer(rows.model_rows())
    first = store.journal.offer(rows.submit(rows.a_job(1)))
    # Far longer than a commit takes, and far shorter than it is to wait.
    done, _waiting = await asyncio.wait([first], timeout=0.3)
    assert not done
    await asyncio.gather(first, store.journal.offer(rows.submit(rows.a_job(2))))
    assert commits == [1, 2]
    await store.close()


async def test_a_write_after_a_lone_one_waits_for_nobody(tmp_path: Path) -> None:
    commits: list[int] = []
    store = await opened(tmp_path, JournalLimits(busy_writes=2, gather_seconds=600.0), commits)
    async with asyncio.timeout(60.0):
        await store.journal.offer(rows.model_rows())
        await store.journal.offer(rows.submit(rows.a_job(1)))
        await store.journal.offer(rows.submit(rows.a_job(2)))
    assert commits == [1, 1, 1]
    await store.close()


async def test_a_request_that_ends_before_it_was_written_is_one_row_and_has_ended(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path, JournalLimits(), [])
    await store.journal.offer(rows.model_rows())
    job = rows.a_job(1)
    attempt = rows.an_attempt(job)
    ending = rows.succeed(job, attempt, rows.a_line(job, attempt))
    whole = ended_rows(rows.submit(job), ending)
    assert Statement.END_REQUEST not in [row.statement for row in whole]
    await store.journal.keep(whole)
    view = await store.reader.run(lambda connection: request_view(connection, job.request_id))
    assert view is not None
    assert (view.state.value, view.attempts, view.finished_ms) == ("succeeded", 1, 2_000)
    assert view.output_json == '{"images":[]}'
    assert await store.reader.run(lambda connection: list(open_requests(connection))) == []
    await store.close()


def test_a_request_that_is_queued_again_before_it_was_written_stays_open() -> None:
    job = rows.a_job(1)
    attempt = rows.an_attempt(job)
    ending = rows.lose(job, attempt, rows.a_line(job, attempt, waiver="WORKER_LOST"))
    assert ended_rows(rows.submit(job), ending) == [*rows.submit(job), *ending]
