"""A scheduler that stops, or is killed, and starts again on the same store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from functools import partial
from pathlib import Path
from random import Random

import grpc.aio
import pytest

from quickthaw.scheduler.scheduler import start
from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.schedulers import (
    FAST,
    QUICK_TO_LOSE,
    Caller,
    SchedulerProcess,
    a_model,
    a_scheduler,
    submission,
)

SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
QUEUED = types_pb2.REQUEST_STATE_QUEUED
RUNNING = types_pb2.REQUEST_STATE_RUNNING

FLAGS = ["--lease-ms", "6000", "--heartbeat-interval-ms", "100", "--tick-ms", "20"]


async def lines_of(caller: Caller) -> list[billing_pb2.LedgerLine]:
    page = types_pb2.Page(size=1000)
    answer = await caller.billing.ListLedger(billing_pb2.ListLedgerRequest(page=page))
    return list(answer.lines)


async def test_queued_and_running_requests_survive_a_restart(
    store_url: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir, store_url=store_url) as first:
        worker = FakeWorker(first.address, first.worker_key)
        await worker.attach()
        ids = [await first.admin.submit(priority=types_pb2.PRIORITY_HIGH) for _ in range(4)]
        assign = await worker.next_assign()
        worker.running(assign.attempt_id)
        await first.admin.until_state(assign.request_id, RUNNING)
        ahead = await worker.next_assign()
        await worker.break_stream()
    async with a_scheduler(data_dir, store_url=store_url, models=[]) as second:
        for request_id in ids:
            found = await second.admin.inference.Get(
                inference_pb2.GetRequest(request_id=request_id)
            )
            assert found.state in (QUEUED, types_pb2.REQUEST_STATE_PLACED, RUNNING)
            assert found.priority == types_pb2.PRIORITY_HIGH
        welcome = await worker.attach(second.address)
        assert list(welcome.revoked_attempt_ids) == []
        worker.finish(assign)
        worker.finish(ahead)
        for _ in ids[2:]:
            worker.finish(await worker.next_assign())
        for request_id in ids:
            finished = await second.admin.until_ended(request_id)
            assert (finished.state, finished.attempts) == (SUCCEEDED, 1)
        assert len(await lines_of(second.admin)) == 4
        await worker.break_stream()


async def test_an_attempt_whose_worker_does_not_come_back_is_tried_elsewhere(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir) as first:
        lost = FakeWorker(first.address, first.worker_key, "worker-lost", heartbeats=False)
        await lost.attach()
        request_id = await first.admin.submit()
        assign = await lost.next_assign()
        lost.running(assign.attempt_id)
        lost.meter(assign.attempt_id, 700)
        await lost.until_heartbeat_acknowledged(lost.heartbeat())
        await lost.break_stream()
    async with (
        a_scheduler(data_dir, models=[], limits=QUICK_TO_LOSE) as second,
        FakeWorker(second.address, second.worker_key, "worker-2", automatic=True),
    ):
        finished = await second.admin.until_ended(request_id)
        assert (finished.state, finished.attempts) == (SUCCEEDED, 2)
        first_line, _second_line = await lines_of(second.admin)
        assert (first_line.waiver, first_line.billed_ms) == ("worker_lost", 0)
        assert first_line.metered_ms == 700


async def test_how_long_runs_take_is_known_again_after_a_restart(
    store_url: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir, store_url=store_url) as first:
        worker = FakeWorker(first.address, first.worker_key)
        await worker.attach()
        for _ in range(3):
            request_id = await first.admin.submit()
            assign = await worker.next_assign()
            worker.running(assign.attempt_id)
            worker.finish(assign, metered_ms=7_000)
            await first.admin.until_ended(request_id)
        await worker.break_stream()
    async with (
        a_scheduler(data_dir, store_url=store_url, models=[]) as second,
        FakeWorker(second.address, second.worker_key),
    ):
        quote = await second.admin.inference.Quote(submission())
        assert quote.run_seconds.p50 == pytest.approx(7.0)
        assert 7.0 < quote.run_seconds.p95 < 14.0


async def test_a_wish_to_cancel_survives_a_restart(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir) as first:
        worker = FakeWorker(first.address, first.worker_key)
        await worker.attach()
        request_id = await first.admin.submit()
        assign = await worker.next_assign()
        worker.running(assign.attempt_id)
        await first.admin.until_state(request_id, RUNNING)
        await first.admin.inference.Cancel(inference_pb2.CancelRequest(request_id=request_id))
        await worker.next_cancel()
        await worker.break_stream()
    async with a_scheduler(data_dir, models=[]) as second:
        await worker.attach(second.address)
        assert (await worker.next_cancel()).attempt_id == assign.attempt_id
        worker.finish(assign, "cancelled", metered_ms=5)
        finished = await second.admin.until_ended(request_id)
        assert finished.state == types_pb2.REQUEST_STATE_CANCELLED
        await worker.break_stream()


async def test_a_cordon_survives_a_restart_until_it_is_undone(
    store_url: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir, store_url=store_url) as first:
        worker = FakeWorker(first.address, first.worker_key)
        await worker.attach()
        await first.admin.fleet.Cordon(fleet_pb2.CordonRequest(worker_id=worker.worker_id))
        await worker.break_stream()
    async with a_scheduler(data_dir, store_url=store_url, models=[]) as second:
        await worker.attach(second.address)
        [listed] = (await second.admin.fleet.ListWorkers(fleet_pb2.ListWorkersRequest())).workers
        assert listed.state == fleet_pb2.WORKER_STATE_CORDONED
        await second.admin.fleet.Uncordon(fleet_pb2.UncordonRequest(worker_id=worker.worker_id))
        await worker.break_stream()
    async with a_scheduler(data_dir, store_url=store_url, models=[]) as third:
        await worker.attach(third.address)
        await third.admin.submit()
        worker.finish(await worker.next_assign())
        await worker.break_stream()


async def test_a_drain_with_stop_survives_a_restart(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir) as first:
        worker = FakeWorker(first.address, first.worker_key)
        await worker.attach()
        await first.admin.submit()
        assign = await worker.next_assign()
        await first.admin.fleet.Drain(fleet_pb2.DrainRequest(worker_id=worker.worker_id, stop=True))
        await worker.break_stream()
    async with a_scheduler(data_dir, models=[]) as second:
        await worker.attach(second.address)
        worker.finish(assign)
        assert (await worker.next_drain()).stop
        await worker.break_stream()


async def test_a_watch_of_a_request_that_ended_before_the_restart_still_ends(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "data"
    async with (
        a_scheduler(data_dir) as first,
        FakeWorker(first.address, first.worker_key, automatic=True),
    ):
        finished = await first.admin.inference.Run(submission())
    async with a_scheduler(data_dir, models=[]) as second:
        call = second.admin.inference.Watch(
            inference_pb2.WatchRequest(request_id=finished.request_id, after_sequence=3)
        )
        events = [event async for event in call]
        assert [event.finished for event in events] == [finished]
        assert events[0].sequence > 3


async def test_a_watch_that_resumes_after_a_restart_sees_what_follows(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir) as first:
        request_id = await first.admin.submit()
        call = first.admin.inference.Watch(inference_pb2.WatchRequest(request_id=request_id))
        first_event = await call.read()
        assert isinstance(first_event, inference_pb2.Event)
        seen = first_event.sequence
        call.cancel()
    async with a_scheduler(data_dir, models=[]) as second:
        call = second.admin.inference.Watch(
            inference_pb2.WatchRequest(request_id=request_id, after_sequence=seen)
        )
        async with FakeWorker(second.address, second.worker_key, automatic=True):
            events = [event async for event in call]
        assert events[-1].finished.state == SUCCEEDED
        assert all(event.sequence > seen for event in events)


async def rest_of(
    watch: grpc.aio.UnaryStreamCall[inference_pb2.WatchRequest, inference_pb2.Event],
) -> None:
    while await watch.read() is not grpc.aio.EOF:
        pass


async def test_stopping_tells_everyone_who_waits_to_try_again(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(a_scheduler(tmp_path / "data"))
        worker = FakeWorker(running.address, running.worker_key)
        await worker.attach()
        request_id = await running.admin.submit()
        watch = running.admin.inference.Watch(inference_pb2.WatchRequest(request_id=request_id))
        await watch.read()
        run = running.admin.inference.Run(submission())
        await worker.next_assign()
        await worker.next_assign()
        await running.scheduler.stop()
        assert isinstance(await worker.until_ended(), errors.Unavailable)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await run
        assert isinstance(error_from_rpc(caught.value), errors.Unavailable)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest_of(watch)
        assert isinstance(error_from_rpc(caught.value), errors.Unavailable)
        await worker.break_stream()
        # It is stopped already: what is left is to close the channel.
        stack.pop_all()
        await running.admin.channel.close()


async def test_missing_key_files_are_made_anew_and_old_keys_stay_valid(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir) as first:
        old_key = first.admin.key
    (data_dir / "admin.key").unlink()
    async with a_scheduler(data_dir, models=[]) as second:
        assert second.admin.key != old_key
        for key in (old_key, second.admin.key):
            caller = Caller(second.address, key)
            await caller.catalog.ListModels(catalog_pb2.ListModelsRequest())
            await caller.channel.close()


def _reached(accepted: list[str], wanted: int) -> bool:
    return len(accepted) >= wanted


@pytest.mark.timeout(300)
async def test_kill_9_loses_no_accepted_request_and_bills_none_twice(tmp_path: Path) -> None:
    """Three rounds at seeded moments, under load, with a worker that reconnects each time."""
    chance = Random(20)
    with SchedulerProcess(tmp_path / "data", FLAGS) as process:
        caller = Caller(process.grpc, process.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        worker = FakeWorker(process.grpc, process.key("worker"), automatic=True, concurrency=4)
        await worker.attach()
        accepted: list[str] = []

        news = asyncio.Condition()

        async def submit_many() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                while True:
                    accepted.append(await caller.submit())
                    async with news:
                        news.notify_all()

        for _ in range(3):
            # One caller after another is cut off in the middle of whatever it was doing.
            callers = [asyncio.create_task(submit_many()) for _ in range(4)]
            wanted = len(accepted) + chance.randrange(1, 60)
            async with news:
                await news.wait_for(partial(_reached, accepted, wanted))
            process.kill()
            await asyncio.gather(*callers)
            await worker.break_stream()
            process.start()
            await worker.attach_when_up()
        states = [await caller.until_ended(request_id) for request_id in accepted]
        assert {each.state for each in states} == {SUCCEEDED}
        lines = await lines_of(caller)
        by_request = {line.request_id: line for line in lines if not line.waiver}
        assert len({line.attempt_id for line in lines}) == len(lines)
        assert by_request.keys() >= set(accepted)
        assert len(by_request) == len([line for line in lines if not line.waiver])
        for finished in states:
            assert by_request[finished.request_id].billed_ms == finished.receipt.billed_ms == 40
        await worker.break_stream()
        await caller.channel.close()
        assert process.stop() == 0


async def test_a_store_that_is_in_use_is_refused(tmp_path: Path) -> None:
    async with a_scheduler(tmp_path / "data") as running:
        settings = dataclasses.replace(running.settings, limits=FAST)
        with pytest.raises(errors.FailedPrecondition, match="another scheduler"):
            await start(settings)
