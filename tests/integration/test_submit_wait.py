"""Submit that waits for the end, on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import catalog_pb2, inference_pb2, types_pb2
from quickthaw.wire.errors import InvalidArgument, InvalidInput, QuickthawError
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.patience import PATIENCE_SECONDS
from support.schedulers import (
    Caller,
    Running,
    SchedulerProcess,
    a_model,
    a_scheduler,
    submission,
)

RUNNING = types_pb2.REQUEST_STATE_RUNNING
SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data", models=[a_model()]) as running:
        yield running


async def refusal(running: Running, asked: inference_pb2.SubmitRequest) -> QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.admin.inference.Submit(asked)
    return error_from_rpc(caught.value)


async def test_a_submission_that_waits_is_answered_with_the_end_and_the_log(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        call = running.admin.inference.Submit(submission(wait_ms=30_000))
        assign = await worker.next_assign()
        worker.loading(assign.attempt_id)
        worker.running(assign.attempt_id)
        worker.progress(assign.attempt_id, 1, 2)
        worker.finish(assign, metered_ms=5)
        answer = await call
        assert answer.ended.state == answer.state == SUCCEEDED
        assert answer.ended.receipt.billed_ms == 5
        told = [event.WhichOneof("kind") for event in answer.events]
        assert told == ["state_change", "progress"]
        assert answer.events[0].state_change.state == RUNNING
        wanted = inference_pb2.GetRequest(request_id=answer.request_id)
        assert await running.admin.inference.Get(wanted) == answer.ended


async def test_after_its_time_the_request_goes_on_and_can_be_asked_for(running: Running) -> None:
    answer = await running.admin.inference.Submit(submission(wait_ms=30))
    assert not answer.HasField("ended")
    assert answer.state == types_pb2.REQUEST_STATE_QUEUED
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        ended = await running.admin.until_ended(answer.request_id)
        assert ended.state == SUCCEEDED


async def test_a_caller_that_goes_away_while_it_waits_leaves_the_request_to_itself(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        call = running.admin.inference.Submit(submission(wait_ms=30_000))
        assign = await worker.next_assign()
        call.cancel()
        worker.running(assign.attempt_id)
        worker.finish(assign)
        ended = await running.admin.until_ended(assign.request_id)
        assert ended.state == SUCCEEDED


async def test_an_idempotency_key_leads_a_waiting_submission_to_the_first_request(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        asked = submission(wait_ms=30_000, idempotency_key="once")
        first = await running.admin.inference.Submit(asked)
        again = await running.admin.inference.Submit(asked)
        assert (again.deduplicated, again.ended) == (True, first.ended)


async def test_what_is_wrong_is_said_at_once_and_too_long_a_wait_is_refused(
    running: Running,
) -> None:
    bad = await refusal(running, submission(wait_ms=30_000, input_json='{"prompt": 5}'))
    assert isinstance(bad, InvalidInput)
    too_long = await refusal(running, submission(wait_ms=60_001))
    assert isinstance(too_long, InvalidArgument)
    assert "at most 60000" in too_long.message


async def test_a_request_that_a_caller_was_told_of_survives_a_kill_of_the_scheduler(
    tmp_path: Path,
) -> None:
    with SchedulerProcess(tmp_path / "data") as process:
        caller = Caller(process.grpc, process.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        answer = await caller.inference.Submit(submission(wait_ms=1))
        process.kill()
        process.start()
        wanted = inference_pb2.GetRequest(request_id=answer.request_id)
        found = await caller.inference.Get(wanted, wait_for_ready=True)
        assert found.state == types_pb2.REQUEST_STATE_QUEUED
        await caller.channel.close()


async def test_a_scheduler_that_stops_answers_those_that_wait_with_what_it_keeps(
    tmp_path: Path,
) -> None:
    with SchedulerProcess(tmp_path / "data") as process:
        caller = Caller(process.grpc, process.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        waiting = caller.inference.Submit(submission(wait_ms=30_000))
        listed = inference_pb2.ListRequestsRequest()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await caller.inference.List(listed)).requests:
                pass
        assert process.stop() == 0
        answer = await waiting
        assert not answer.HasField("ended")
        process.start()
        wanted = inference_pb2.GetRequest(request_id=answer.request_id)
        found = await caller.inference.Get(wanted, wait_for_ready=True)
        assert found.state == types_pb2.REQUEST_STATE_QUEUED
        await caller.channel.close()
