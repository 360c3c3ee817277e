"""`python -m quickthaw.scheduler` as operators meet it."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quickthaw.v1 import catalog_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.patience import PATIENCE_SECONDS
from support.schedulers import Caller, SchedulerProcess, a_model, submission


def run_to_its_end(process: SchedulerProcess) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        process.command(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=process.environment,
    )


def test_the_ready_line_is_the_only_line_and_sigterm_ends_with_0(tmp_path: Path) -> None:
    process = SchedulerProcess(tmp_path / "data")
    process.start()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", process.grpc)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", process.metrics)
    assert process.process is not None
    assert process.process.stdout is not None
    process.process.terminate()
    assert process.process.stdout.read() == ""
    assert process.process.wait(30) == 0
    process.process.stdout.close()


def test_a_bad_flag_exits_with_2_and_names_it(tmp_path: Path) -> None:
    done = run_to_its_end(SchedulerProcess(tmp_path / "data", ["--queue-max", "none"]))
    assert done.returncode == 2
    assert "--queue-max 'none'" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("which", ["grpc", "metrics"])
def test_a_port_in_use_exits_with_1_and_says_which(tmp_path: Path, which: str) -> None:
    process = SchedulerProcess(tmp_path / "data")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        setattr(process, which, address)
        done = run_to_its_end(process)
    assert done.returncode == 1
    assert address in done.stderr
    assert "in use" in done.stderr
    assert done.stdout == ""


def test_a_second_scheduler_on_the_same_store_exits_with_1(tmp_path: Path) -> None:
    with SchedulerProcess(tmp_path / "data"):
        flags = ["--store-lock-wait-ms", "100"]
        done = run_to_its_end(SchedulerProcess(tmp_path / "data", flags))
    assert done.returncode == 1
    assert "another scheduler is using the store" in done.stderr


def test_a_database_that_does_not_answer_exits_with_1(tmp_path: Path) -> None:
    url = "postgresql://nobody:hunter2@127.0.0.1:1/nothing"
    done = run_to_its_end(SchedulerProcess(tmp_path / "data", [], {"QUICKTHAW_STORE": url}))
    assert done.returncode == 1
    assert "the store does not answer" in done.stderr
    assert "hunter2" not in done.stderr


async def test_a_disk_that_is_full_refuses_new_work_and_health_says_so(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk; lifting it, for freed space."""
    with SchedulerProcess(tmp_path / "data", ["--lease-ms", "60000"]) as process:
        assert process.process is not None
        caller = Caller(process.grpc, process.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        async with FakeWorker(process.grpc, process.key("worker")) as worker:
            running_id = await caller.submit()
            assign = await worker.next_assign()
            pid = process.process.pid
            _soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.submit()
            assert isinstance(
                error_from_rpc(caught.value), errors.StorageFull | errors.StoreUnavailable
            )
            worker.finish(assign)
            await until_health(process.grpc, health_pb2.HealthCheckResponse.NOT_SERVING)
            assert assign.attempt_id not in worker.acknowledged
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
            await worker.until_acknowledged(assign.attempt_id)
            await caller.until_ended(running_id)
            await until_health(process.grpc, health_pb2.HealthCheckResponse.SERVING)
            await caller.submit()
        await caller.channel.close()


async def until_health(address: str, wanted: object) -> None:
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(PATIENCE_SECONDS):
        # The stubs do not know the methods of the stub.
        health: Any = health_pb2_grpc.HealthStub(channel)
        call = health.Watch(health_pb2.HealthCheckRequest())
        async for answer in call:
            if answer.status == wanted:
                return


async def test_the_metrics_are_what_prometheus_wants(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on this machine: install Debian's `prometheus` package")
    with SchedulerProcess(tmp_path / "data") as process:
        caller = Caller(process.grpc, process.key("admin"))
        await caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        async with FakeWorker(process.grpc, process.key("worker"), automatic=True):
            for _ in range(3):
                await caller.inference.Run(submission())
            with pytest.raises(grpc.aio.AioRpcError):
                await caller.inference.Run(submission("no/such"))
            url = f"http://{process.metrics}/metrics"
            text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        await caller.channel.close()
    checker = await asyncio.create_subprocess_exec(
        *(promtool, "check", "metrics"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await checker.communicate(text.encode())
    assert (said.decode(), checker.returncode) == ("", 0)
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    expected = {
        "quickthaw_requests_submitted_total": 3.0,
        'quickthaw_requests_finished_total{state="succeeded"}': 3.0,
        'quickthaw_placements_total{tier="disk"}': 3.0,
        "quickthaw_cold_starts_total": 3.0,
        'quickthaw_load_seconds_count{tier="disk"}': 3.0,
        "quickthaw_run_seconds_sum": 0.12,
        "quickthaw_queue_seconds_count": 3.0,
        'quickthaw_billed_seconds_total{tenant_class="standard"}': 0.12,
        'quickthaw_billed_dollars_total{tenant_class="standard"}': 2.4e-06,
        'quickthaw_queue_requests{priority="normal"}': 0.0,
        'quickthaw_workers{state="ready"}': 1.0,
        'quickthaw_open_streams{kind="attach"}': 1.0,
        'quickthaw_resident_bytes{tier="vram"}': 0.0,
        "quickthaw_store_faulty": 0.0,
        'quickthaw_rpc_errors_total{method="Inference/Run",reason="MODEL_NOT_FOUND"}': 1.0,
    }
    for name, value in expected.items():
        assert float(samples[name]) == pytest.approx(value), name
    assert float(samples["quickthaw_journal_commit_seconds_count"]) > 0
    assert "quickthaw_event_loop_lag_seconds_count" in samples
