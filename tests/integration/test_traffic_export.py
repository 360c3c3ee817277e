"""The log of requests that an installation writes: complete, anonymous, fit for the simulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.cli.main import execute
from quickthaw.scheduler.simulate.kinds import ASSUMED
from quickthaw.scheduler.simulate.requestlog import read_log
from quickthaw.scheduler.simulate.scenes import REPLAY, SceneSpec
from quickthaw.scheduler.simulate.study import OURS, Task, run
from quickthaw.v1 import traffic_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.schedulers import Caller, Running, a_scheduler, submission

SECRET = "a very private prompt"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data") as running:
        yield running


async def test_a_log_holds_every_ended_request_and_nothing_private(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True, metered_ms=25):
        for number in range(7):
            asked = submission(input_json=json.dumps({"prompt": f"{SECRET} {number}"}))
            await running.admin.inference.Run(asked)
        path = tmp_path / "mine.jsonl"
        monkeypatch.setenv("QUICKTHAW_GRPC", running.address)
        monkeypatch.setenv("QUICKTHAW_KEY", running.admin.key)
        status = await asyncio.to_thread(execute, ["requests", "export", "--output", str(path)])
    assert status == 0
    text = path.read_text()
    assert SECRET not in text
    assert "default" not in text, "tenants are numbered"
    log = read_log(path)
    assert [request.run_seconds for request in log.requests] == [0.025] * 7
    assert {request.tenant for request in log.requests} == {"t1"}
    assert [gpu.workers for gpu in log.gpus] == [1]
    model = log.models["test/tiny"]
    assert model.weight_bytes > 0
    spec = SceneSpec(REPLAY, (ASSUMED["l4"],), 1, log=log)
    assert run(Task(spec, OURS)).requests == 7


async def test_traffic_is_paged_in_order_of_submission_and_bounded_in_time(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True):
        for _ in range(5):
            await running.admin.inference.Run(submission())
    await running.admin.submit()  # waits for ever: it has not ended and is not told
    seen: list[traffic_pb2.TrafficEntry] = []
    token = ""
    while True:
        page = await running.admin.traffic.ListTraffic(
            traffic_pb2.ListTrafficRequest(page=types_pb2.Page(size=2, token=token))
        )
        seen += page.entries
        if not (token := page.next_page_token):
            break
    times = [entry.submitted_unix_ms for entry in seen]
    assert len(seen) == 5
    assert times == sorted(times)
    assert all(entry.run_ms > 0 and entry.gpu_type and entry.attempts == 1 for entry in seen)
    later = traffic_pb2.ListTrafficRequest(from_unix_ms=times[-1] + 1)
    assert not (await running.admin.traffic.ListTraffic(later)).entries
    earlier = traffic_pb2.ListTrafficRequest(until_unix_ms=times[0])
    assert not (await running.admin.traffic.ListTraffic(earlier)).entries


async def test_traffic_of_all_tenants_is_for_admins(running: Running) -> None:
    worker = Caller(running.address, running.worker_key)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.traffic.ListTraffic(traffic_pb2.ListTrafficRequest())
    await worker.channel.close()
    assert isinstance(error_from_rpc(caught.value), errors.PermissionDenied)
