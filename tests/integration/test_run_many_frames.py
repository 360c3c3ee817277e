"""Frames of many calls: each call is answered once, by its own end, whatever the others are."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random

import grpc.aio
import pytest

from quickthaw.scheduler.slices import SLICE_MAX
from quickthaw.v1 import billing_pb2, catalog_pb2, inference_pb2, types_pb2
from support.fake_worker import FakeWorker
from support.schedulers import (
    FAST,
    Caller,
    Running,
    SchedulerProcess,
    a_model,
    a_scheduler,
    submission,
)

FLAGS = ["--lease-ms", "6000", "--heartbeat-interval-ms", "100", "--tick-ms", "20"]

KINDS: Mapping[str, str] = {
    "good": "",
    "bad input": "INVALID_INPUT",
    "no model": "MODEL_NOT_FOUND",
    "no kind": "INVALID_ARGUMENT",
}
"""What a call is, and why it is refused."""


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    limits = dataclasses.replace(FAST, run_many_in_flight_max=1_000)
    async with a_scheduler(tmp_path / "data", limits=limits) as running:
        yield running


def a_call(tag: int, kind: str) -> inference_pb2.RunCall:
    match kind:
        case "good":
            run = submission(input_json=f'{{"prompt": "picture {tag}"}}')
        case "bad input":
            run = submission(input_json='{"prompt": 5}')
        case "no model":
            run = submission("test/unheard-of")
        case _:
            return inference_pb2.RunCall(tag=tag)
    return inference_pb2.RunCall(tag=tag, run=run)


@pytest.mark.parametrize("seed", range(4))
async def test_every_call_of_every_frame_ends_once_and_a_bad_one_refuses_only_itself(
    running: Running, seed: int
) -> None:
    chance = Random(seed)
    sizes = [chance.choice((1, SLICE_MAX - 1, SLICE_MAX, SLICE_MAX + 1, 90)) for _ in range(5)]
    kinds = [chance.choice(list(KINDS)) for _ in range(sum(sizes))]
    call = running.admin.inference.RunMany()
    async with FakeWorker(running.address, running.worker_key, automatic=True, concurrency=8):
        tag = 0
        for size in sizes:
            calls = [a_call(n, kinds[n]) for n in range(tag, tag + size)]
            await call.write(inference_pb2.RunManyRequest(calls=calls))
            tag += size
        await call.done_writing()
        ends: list[inference_pb2.RunEnd] = []
        while (frame := await call.read()) is not grpc.aio.EOF:
            assert isinstance(frame, inference_pb2.RunManyResponse)
            assert len(frame.ends) <= SLICE_MAX
            ends += frame.ends
    assert sorted(end.tag for end in ends) == list(range(len(kinds)))
    for end in ends:
        if reason := KINDS[kinds[end.tag]]:
            assert end.refused.reason == reason
        else:
            assert end.request.state == types_pb2.REQUEST_STATE_SUCCEEDED
            assert f'"picture {end.tag}"' in end.request.input_json
    page = types_pb2.Page(size=1000)
    bill = await running.admin.billing.ListLedger(billing_pb2.ListLedgerRequest(page=page))
    succeeded = [end.request.request_id for end in ends if end.HasField("request")]
    assert sorted(line.request_id for line in bill.lines) == sorted(succeeded)


async def test_an_end_that_says_all_passes_through_every_state_for_who_watches(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        request_id = await running.admin.submit()
        assign = await worker.next_assign()
        worker.finish(assign)
        await worker.until_acknowledged(assign.attempt_id)
        watch = running.admin.inference.Watch(inference_pb2.WatchRequest(request_id=request_id))
        events = [event async for event in watch]
    states = [event.state_change.state for event in events if event.HasField("state_change")]
    assert states == [
        types_pb2.REQUEST_STATE_QUEUED,
        types_pb2.REQUEST_STATE_PLACED,
        types_pb2.REQUEST_STATE_LOADING,
        types_pb2.REQUEST_STATE_RUNNING,
    ]
    assert events[-1].finished.state == types_pb2.REQUEST_STATE_SUCCEEDED
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]


@pytest.mark.timeout(300)
async def test_kill_9_between_the_frames_takes_back_no_end_that_was_told(tmp_path: Path) -> None:
    with SchedulerProcess(tmp_path / "data", FLAGS) as process:
        caller = Caller(process.grpc, process.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        worker = FakeWorker(process.grpc, process.key("worker"), automatic=True, concurrency=8)
        await worker.attach()
        told: list[inference_pb2.RunEnd] = []
        for round_number in range(2):
            call = caller.inference.RunMany()
            calls = [a_call(tag, "good") for tag in range(200)]
            await call.write(inference_pb2.RunManyRequest(calls=calls))
            wanted = len(told) + 1 + 40 * round_number
            with contextlib.suppress(grpc.aio.AioRpcError):
                while isinstance(frame := await call.read(), inference_pb2.RunManyResponse):
                    told += frame.ends
                    if len(told) >= wanted and process.process is not None:
                        process.kill()
            await worker.break_stream()
            process.start()
            await worker.attach_when_up()
        assert len(told) < 400, "nothing was under way when it was killed"
        for end in told:
            wish = inference_pb2.GetRequest(request_id=end.request.request_id)
            found = await caller.inference.Get(wish)
            assert found.state == end.request.state == types_pb2.REQUEST_STATE_SUCCEEDED
            assert found.receipt == end.request.receipt
        await worker.break_stream()
        await caller.channel.close()
        assert process.stop() == 0
