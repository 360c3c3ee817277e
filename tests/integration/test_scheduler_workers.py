"""What happens to work when its worker's stream breaks, comes back, restarts or leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.blob_store import MARK, check_blob_store
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.schedulers import QUICK_TO_LOSE, Caller, Running, a_scheduler

SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
FAILED = types_pb2.REQUEST_STATE_FAILED
QUEUED = types_pb2.REQUEST_STATE_QUEUED
RUNNING = types_pb2.REQUEST_STATE_RUNNING


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data") as running:
        yield running


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Running]:
    """A scheduler that soon gives a silent worker up."""
    async with a_scheduler(tmp_path / "data", limits=QUICK_TO_LOSE) as running:
        yield running


async def waivers(running: Running, request_id: str) -> list[str]:
    answer = await running.admin.billing.ListLedger(
        billing_pb2.ListLedgerRequest(request_id=request_id)
    )
    return [line.waiver for line in answer.lines]


async def listed(running: Running) -> dict[str, fleet_pb2.Worker]:
    answer = await running.admin.fleet.ListWorkers(fleet_pb2.ListWorkersRequest())
    return {worker.worker_id: worker for worker in answer.workers}


async def test_a_reconnecting_worker_keeps_its_attempt(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        request_id = await running.admin.submit()
        assign = await worker.next_assign()
        worker.running(assign.attempt_id)
        await running.admin.until_state(request_id, RUNNING)
        await worker.break_stream()
        welcome = await worker.attach()
        assert list(welcome.revoked_attempt_ids) == []
        worker.finish(assign, metered_ms=50)
        finished = await running.admin.until_ended(request_id)
    assert (finished.state, finished.attempts) == (SUCCEEDED, 1)
    assert await waivers(running, request_id) == [""]


async def test_a_finish_that_was_not_acknowledged_is_absorbed_when_it_is_said_again(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        request_id = await running.admin.submit()
        assign = await worker.next_assign()
        worker.finish(assign)
        await running.admin.until_ended(request_id)
        await worker.until_acknowledged(assign.attempt_id)
        await worker.break_stream()
        worker.acknowledged.clear()
        await worker.attach()
        worker.finish(assign)
        await worker.until_acknowledged(assign.attempt_id)
    assert await waivers(running, request_id) == [""]


async def test_a_worker_that_stays_away_loses_its_attempt_to_another(impatient: Running) -> None:
    first = FakeWorker(impatient.address, impatient.worker_key, "worker-1")
    await first.attach()
    request_id = await impatient.admin.submit()
    assign = await first.next_assign()
    first.running(assign.attempt_id)
    await impatient.admin.until_state(request_id, RUNNING)
    await first.break_stream()
    async with FakeWorker(impatient.address, impatient.worker_key, "worker-2") as second:
        again = await second.next_assign()
        assert (again.request_id, again.attempt) == (request_id, 2)
        second.finish(again)
        finished = await impatient.admin.until_ended(request_id)
        welcome = await first.attach()
        assert list(welcome.revoked_attempt_ids) == [assign.attempt_id]
        await first.break_stream()
    assert (finished.state, finished.attempts) == (SUCCEEDED, 2)
    assert await waivers(impatient, request_id) == ["worker_lost", ""]


async def test_a_new_incarnation_loses_its_older_attempts_at_once(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        request_id = await running.admin.submit()
        assign = await worker.next_assign()
        worker.running(assign.attempt_id)
        await running.admin.until_state(request_id, RUNNING)
        await worker.restart("boot-2")
        again = await worker.next_assign()
        assert (again.request_id, again.attempt) == (request_id, 2)
        worker.finish(again)
        finished = await running.admin.until_ended(request_id)
    assert (finished.state, finished.attempts) == (SUCCEEDED, 2)


async def test_a_request_that_loses_every_worker_fails_with_that_reason(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        request_id = await running.admin.submit()
        for attempt in range(1, 4):
            assign = await worker.next_assign()
            assert assign.attempt == attempt
            worker.running(assign.attempt_id)
            await running.admin.until_run(request_id, attempt)
            await worker.restart(f"boot-{attempt + 1}")
        finished = await running.admin.until_ended(request_id)
    assert (finished.state, finished.failure.reason) == (FAILED, "POISON_REQUEST")
    assert (finished.attempts, finished.receipt.billed_ms) == (3, 0)
    assert await waivers(running, request_id) == ["worker_lost"] * 3


async def test_a_newer_stream_of_a_worker_ends_the_older_one(running: Running) -> None:
    older = FakeWorker(running.address, running.worker_key)
    newer = FakeWorker(running.address, running.worker_key)
    await older.attach()
    await newer.attach()
    assert isinstance(await older.until_ended(), errors.FailedPrecondition)
    request_id = await running.admin.submit()
    newer.finish(await newer.next_assign())
    assert (await running.admin.until_ended(request_id)).state == SUCCEEDED
    await older.break_stream()
    await newer.break_stream()


async def test_a_second_process_is_refused_the_id_of_one_that_lives(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as first:
        request_id = await running.admin.submit()
        assign = await first.next_assign()
        first.running(assign.attempt_id)
        second = FakeWorker(running.address, running.worker_key, incarnation="another")
        with pytest.raises(errors.FailedPrecondition, match="taken by another live process"):
            await second.attach()
        await second.break_stream()
        first.finish(assign)
        finished = await running.admin.until_ended(request_id)
    assert (finished.state, finished.attempts) == (SUCCEEDED, 1)


async def test_a_process_gets_the_id_of_one_that_died_and_whose_end_nobody_noticed(
    impatient: Running,
) -> None:
    """As after a power cut: the older stream stays open, and nothing comes over it."""
    dead = FakeWorker(impatient.address, impatient.worker_key, heartbeats=False)
    await dead.attach()
    async with FakeWorker(impatient.address, impatient.worker_key, incarnation="boot-2") as worker:
        assert isinstance(await dead.until_ended(), errors.Unavailable)
        await impatient.admin.submit()
        worker.finish(await worker.next_assign())
    await dead.break_stream()


async def test_a_heartbeat_is_acknowledged_when_its_metered_time_is_durable(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key, heartbeats=False) as worker:
        await running.admin.submit()
        assign = await worker.next_assign()
        worker.running(assign.attempt_id)
        worker.meter(assign.attempt_id, 640)
        ack = await worker.until_heartbeat_acknowledged(worker.heartbeat())
        assert list(ack.revoked_attempt_ids) == []
        [listed_attempt] = (await listed(running))["worker-1"].attempts
        assert (listed_attempt.metered_ms, listed_attempt.state) == (640, RUNNING)


async def test_a_worker_that_counts_beyond_all_time_still_ends_its_request(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        request_id = await running.admin.submit()
        worker.finish(await worker.next_assign(), metered_ms=2**62)
        ended = await running.admin.until_ended(request_id)
        assert ended.state == SUCCEEDED
        assert ended.receipt.run_ms < 2**36
        await running.admin.submit()
        worker.finish(await worker.next_assign())


async def test_residency_is_told_to_operators_with_the_models_that_are_ready(
    running: Running,
) -> None:
    digests = [part.digest for part in (await model(running)).components]
    residency = [
        fleet_pb2.Residency(digest=digest, tier=types_pb2.TIER_VRAM, size_bytes=1_000_000)
        for digest in digests
    ]
    async with FakeWorker(running.address, running.worker_key, residency=residency):
        worker = (await listed(running))["worker-1"]
        assert list(worker.resident_models) == ["test/tiny"]
        assert worker.vram_used_bytes == 2_000_000


async def model(running: Running) -> catalog_pb2.Model:
    return await running.admin.catalog.GetModel(catalog_pb2.GetModelRequest(id="tiny"))


async def test_a_cordoned_worker_gets_nothing_until_it_is_uncordoned(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        cordoned = await running.admin.fleet.Cordon(
            fleet_pb2.CordonRequest(worker_id=worker.worker_id)
        )
        assert cordoned.worker.state == fleet_pb2.WORKER_STATE_CORDONED
        request_id = await running.admin.submit()
        worker.heartbeat()
        await worker.until_heartbeat_acknowledged(1)
        assert worker.assigned.empty()
        await running.admin.fleet.Uncordon(fleet_pb2.UncordonRequest(worker_id=worker.worker_id))
        worker.finish(await worker.next_assign())
        assert (await running.admin.until_ended(request_id)).state == SUCCEEDED


async def test_a_drained_worker_ends_what_it_has_and_is_told_to_stop(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        request_id = await running.admin.submit()
        assign = await worker.next_assign()
        drained = await running.admin.fleet.Drain(
            fleet_pb2.DrainRequest(worker_id=worker.worker_id, stop=True)
        )
        assert drained.worker.state == fleet_pb2.WORKER_STATE_DRAINING
        worker.finish(assign)
        assert (await running.admin.until_ended(request_id)).state == SUCCEEDED
        assert (await worker.next_drain()).stop
        worker.goodbye()
        await worker.until_ended()
    assert await listed(running) == {}


async def test_an_unknown_worker_is_not_found(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.admin.fleet.Drain(fleet_pb2.DrainRequest(worker_id="ghost"))
    assert isinstance(error_from_rpc(caught.value), errors.WorkerNotFound)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"worker_id": ""}, "hello.worker_id is required"),
        ({"incarnation": ""}, "hello.incarnation is required"),
        ({"gpu_type": ""}, "hello.gpu_type is required"),
        ({"concurrency": 0}, "hello.concurrency"),
        ({"vram_bytes": -1}, "hello.vram_bytes"),
    ],
)
async def test_a_hello_that_cannot_be_meant_is_refused(
    running: Running, fields: dict[str, object], words: str
) -> None:
    worker = FakeWorker(running.address, running.worker_key)
    for name, value in fields.items():
        setattr(worker, name, value)
    with pytest.raises(errors.InvalidArgument, match=words):
        await worker.attach()
    await worker.break_stream()


async def test_a_worker_that_keeps_its_files_elsewhere_is_refused(
    running: Running, tmp_path: Path
) -> None:
    theirs = await check_blob_store(str(tmp_path / "theirs"))
    worker = FakeWorker(running.address, running.worker_key, blob_store_mark=theirs)
    with pytest.raises(errors.FailedPrecondition, match="--blob-store is not the scheduler's"):
        await worker.attach()
    await worker.break_stream()
    worker.blob_store_mark = await check_blob_store(running.settings.blob_store)
    await worker.attach()
    await worker.break_stream()
    worker.blob_store_mark = theirs
    with pytest.raises(errors.FailedPrecondition, match="--blob-store is not the scheduler's"):
        await worker.attach()
    await worker.break_stream()
    # Somebody cleans up, and a worker that starts later makes another mark.
    (Path(running.settings.blob_store) / MARK).unlink()
    worker.blob_store_mark = await check_blob_store(running.settings.blob_store)
    await worker.attach()
    await worker.break_stream()


async def test_a_stream_that_does_not_begin_with_hello_is_refused(running: Running) -> None:
    caller = Caller(running.address, running.worker_key)
    beat = fleet_pb2.WorkerMessage(heartbeat=fleet_pb2.Heartbeat(sequence=1))
    call = caller.fleet.Attach(iter([fleet_pb2.WorkerFrame(messages=[beat])]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _frame in call:
            pass
    assert "hello must be the first message" in error_from_rpc(caught.value).message
    await caller.channel.close()


async def test_a_frame_of_too_many_messages_ends_the_stream(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key, heartbeats=False) as worker:
        beats = [
            fleet_pb2.WorkerMessage(heartbeat=fleet_pb2.Heartbeat(sequence=number))
            for number in range(300)
        ]
        worker.say_frame(fleet_pb2.WorkerFrame(messages=beats))
        error = await worker.until_ended()
    assert isinstance(error, errors.InvalidArgument)
    assert "256" in error.message
