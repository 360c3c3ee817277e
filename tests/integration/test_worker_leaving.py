"""How a worker comes and goes: refused, waiting for its scheduler, drained, signalled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest

from quickthaw.v1 import types_pb2
from quickthaw.wire import errors
from quickthaw.worker import process
from quickthaw.worker.engine import DiffusionEngine
from quickthaw.worker.families.noop import NoopEngine
from support.fake_scheduler import FakeScheduler
from support.patience import PATIENCE_SECONDS
from support.workers import RunningWorker, a_worker

SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
FAILED = types_pb2.REQUEST_STATE_FAILED
CANCELLED = types_pb2.REQUEST_STATE_CANCELLED
RUNNING = types_pb2.REQUEST_STATE_RUNNING
LEAVING_SECONDS = 1.5  # less than what waits for a thread, a Goodbye or a Welcome
FOREVER = '{"run_ms": 600000}'


@pytest.fixture
async def worker(scheduler: FakeScheduler, tmp_path: Path) -> AsyncIterator[RunningWorker]:
    async with a_worker(scheduler, tmp_path, "--families", "noop", "--label", "zone=a") as worker:
        yield worker


async def test_a_wrong_key_ends_the_worker_with_the_schedulers_words(
    scheduler: FakeScheduler, tmp_path: Path
) -> None:
    with pytest.raises(errors.Unauthenticated, match="the key is not known"):
        async with a_worker(scheduler, tmp_path, "--families", "noop", key="qt_wrong") as worker:
            await asyncio.wait([worker.done])
    assert scheduler.attempts_to_attach == 1


async def test_a_worker_whose_id_another_process_took_over_ends(
    scheduler: FakeScheduler, tmp_path: Path
) -> None:
    async def live() -> None:
        async with a_worker(scheduler, tmp_path, "--families", "noop") as worker:
            session = await scheduler.welcomed()
            session.fail_with(errors.FailedPrecondition("each worker needs an id of its own"))
            await asyncio.wait([worker.done])

    with pytest.raises(errors.FailedPrecondition, match="an id of its own"):
        await live()


async def test_a_scheduler_that_is_not_there_yet_is_tried_again(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    await scheduler.start()
    await scheduler.stop()
    async with a_worker(scheduler, tmp_path, "--families", "noop") as worker:
        await scheduler.start()
        await scheduler.welcomed()
        await worker.ready.wait()
        await scheduler.stop()


async def test_a_scheduler_that_cannot_serve_now_is_tried_again(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    scheduler.refuse = errors.Unavailable("recovering the journal")
    for _ in range(3):
        await scheduler.tried()
    scheduler.refuse = None
    await scheduler.welcomed()
    await worker.ready.wait()
    assert worker.metric("stream_reconnects_total") >= 3


async def test_a_worker_that_was_never_welcomed_leaves_at_once(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    await scheduler.attached()
    worker.worker.terminate()
    async with asyncio.timeout(LEAVING_SECONDS):
        await worker.done


async def test_a_draining_worker_finishes_what_runs_takes_nothing_more_and_says_goodbye(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", input_json='{"run_ms": 300}')
    await session.next("running", "a1")
    worker.worker.terminate()
    while not (await session.next("heartbeat")).heartbeat.draining:
        pass
    session.assign("a2", input_json="{}")
    refused = await session.finished("a2")
    # Cancelled unasked is how a worker gives an attempt back to be placed elsewhere.
    assert (refused.outcome, refused.failure.reason) == (CANCELLED, "UNAVAILABLE")
    assert (await session.finished("a1")).outcome == SUCCEEDED
    await session.next("goodbye")
    await worker.done
    assert session.received[-1].HasField("goodbye")


async def test_a_second_signal_cancels_what_runs(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", input_json=FOREVER)
    await session.next("running", "a1")
    worker.worker.terminate()
    worker.worker.terminate()
    assert (await session.finished("a1")).outcome == CANCELLED
    await session.next("goodbye")
    await worker.done


async def test_a_drain_that_the_scheduler_asks_for_ends_the_process_when_nothing_is_left(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    from quickthaw.v1 import fleet_pb2

    session = await scheduler.welcomed()
    await worker.ready.wait()
    session.assign("a1", input_json='{"run_ms": 100}')
    await session.next("running", "a1")
    session.send(drain=fleet_pb2.DrainWorker(stop=True))
    assert (await session.finished("a1")).outcome == SUCCEEDED
    await session.next("goodbye")
    await worker.done


async def test_a_run_that_never_ends_keeps_no_worker_from_leaving(
    scheduler: FakeScheduler, worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    monkeypatch.setattr(process, "STOP_SECONDS", 0.05)
    monkeypatch.setattr(NoopEngine, "run", hang)
    monkeypatch.setattr(DiffusionEngine, "close", hang)  # which waits for its threads
    session = await scheduler.welcomed()
    await worker.ready.wait()
    session.assign("a1", input_json=FOREVER)
    await session.next("running", "a1")
    worker.worker.terminate()
    worker.worker.terminate()
    await session.next("goodbye")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await worker.done
