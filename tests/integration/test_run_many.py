"""Many runs over one stream, through the asyncio client and on the wire."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.client import AsyncClient, RunMany
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.errors import InvalidInput, RequestCancelled, ResourceExhausted, Unavailable
from support.fake_worker import FakeWorker
from support.patience import PATIENCE_SECONDS
from support.schedulers import FAST, Running, a_scheduler, submission

MODEL = "test/tiny"
INPUT = {"prompt": "x"}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    limits = dataclasses.replace(FAST, run_many_in_flight_max=40)
    async with a_scheduler(tmp_path / "data", limits=limits) as running:
        yield running


@pytest.fixture
async def many(running: Running) -> AsyncIterator[RunMany]:
    async with (
        AsyncClient(grpc=running.address, key=running.admin.key) as client,
        client.run_many() as many,
    ):
        yield many


async def test_each_run_is_a_billed_request_and_answers_find_their_callers(
    running: Running, many: RunMany
) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        runs = (many.run(MODEL, {"prompt": f"picture {number}"}) for number in range(30))
        requests = await asyncio.gather(*runs)
        for number, request in enumerate(requests):
            wanted = inference_pb2.GetRequest(request_id=request.request_id)
            found = await running.admin.inference.Get(wanted)
            assert f"picture {number}" in found.input_json
            assert request.receipt is not None
            assert request.receipt.request_id == request.request_id
        assert len({request.request_id for request in requests}) == 30


async def test_a_bad_input_is_refused_and_the_others_go_on(running: Running, many: RunMany) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        good, bad = await asyncio.gather(
            many.run(MODEL, INPUT), many.run(MODEL, {"prompt": 5}), return_exceptions=True
        )
        assert not isinstance(good, BaseException)
        assert isinstance(bad, InvalidInput)
        assert bad.violations[0].field == "input.prompt"


async def test_an_idempotency_key_leads_to_the_first_request(
    running: Running, many: RunMany
) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        first = await many.run(MODEL, INPUT, idempotency_key="once")
        again = await many.run(MODEL, INPUT, idempotency_key="once")
        assert again.request_id == first.request_id


async def test_a_caller_that_gives_up_takes_its_request_back(
    running: Running, many: RunMany
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        task = asyncio.create_task(many.run(MODEL, INPUT))
        assign = await worker.next_assign()
        task.cancel()
        assert (await worker.next_cancel()).attempt_id == assign.attempt_id
        worker.finish(assign, "cancelled")
        finished = await running.admin.until_ended(assign.request_id)
        assert finished.state == types_pb2.REQUEST_STATE_CANCELLED


async def test_leaving_the_block_cancels_what_has_not_ended(running: Running) -> None:
    async with (
        FakeWorker(running.address, running.worker_key) as worker,
        AsyncClient(grpc=running.address, key=running.admin.key) as client,
    ):
        async with client.run_many() as many:
            task = asyncio.create_task(many.run(MODEL, INPUT))
            assign = await worker.next_assign()
        with pytest.raises(Unavailable, match="closed"):
            await task
        assert (await worker.next_cancel()).attempt_id == assign.attempt_id
        with pytest.raises(Unavailable, match="closed"):
            await many.run(MODEL, INPUT)


async def test_a_request_that_is_cancelled_elsewhere_tells_its_caller(
    running: Running, many: RunMany
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        task = asyncio.create_task(many.run(MODEL, INPUT))
        assign = await worker.next_assign()
        cancel = inference_pb2.CancelRequest(request_id=assign.request_id)
        await running.admin.inference.Cancel(cancel)
        await worker.next_cancel()
        worker.finish(assign, "cancelled")
        with pytest.raises(RequestCancelled):
            await task


async def test_only_so_many_are_under_way_at_once(running: Running, many: RunMany) -> None:
    tasks = [asyncio.create_task(many.run(MODEL, INPUT)) for _ in range(41)]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    assert isinstance(done.pop().exception(), ResourceExhausted)
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        assert len(await asyncio.gather(*waiting)) == 40


async def test_a_caller_that_closes_its_side_gets_what_is_still_to_come(running: Running) -> None:
    call = running.admin.inference.RunMany()
    calls = [inference_pb2.RunCall(tag=n, run=submission()) for n in range(3)]
    calls += [inference_pb2.RunCall(tag=7), inference_pb2.RunCall(tag=8, cancel=True)]
    await call.write(inference_pb2.RunManyRequest(calls=calls))
    await call.done_writing()
    ends: dict[int, inference_pb2.RunEnd] = {}
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        while (frame := await call.read()) is not grpc.aio.EOF:
            assert isinstance(frame, inference_pb2.RunManyResponse)
            ends |= {end.tag: end for end in frame.ends}
    assert sorted(ends) == [0, 1, 2, 7]
    assert ends[7].refused.reason == "INVALID_ARGUMENT"
    assert all(ends[n].request.state == types_pb2.REQUEST_STATE_SUCCEEDED for n in range(3))


async def test_a_frame_over_the_limit_ends_the_stream_with_a_reason(running: Running) -> None:
    call = running.admin.inference.RunMany()
    calls = [inference_pb2.RunCall(tag=n, cancel=True) for n in range(257)]
    await call.write(inference_pb2.RunManyRequest(calls=calls))
    with pytest.raises(grpc.aio.AioRpcError, match="at most 256") as raised:
        await call.read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_that_is_cancelled_before_it_is_known_is_cancelled_then(
    running: Running,
) -> None:
    call = running.admin.inference.RunMany()
    calls = [
        inference_pb2.RunCall(tag=1, run=submission(idempotency_key="once")),
        inference_pb2.RunCall(tag=1, cancel=True),
    ]
    await call.write(inference_pb2.RunManyRequest(calls=calls))
    async with asyncio.timeout(PATIENCE_SECONDS):
        frame = await call.read()
    assert isinstance(frame, inference_pb2.RunManyResponse)
    assert [end.tag for end in frame.ends] == [1]
    assert frame.ends[0].request.state == types_pb2.REQUEST_STATE_CANCELLED
    await call.done_writing()
