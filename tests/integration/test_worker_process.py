"""The worker as its own process: the ready line, signals, exit codes, metrics."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quickthaw.v1 import types_pb2
from support.fake_scheduler import KEY, FakeScheduler

HAS_GPU = Path("/dev/nvidia0").exists()
ROOTS = ("proto", "snapshot", "worker")


@asynccontextmanager
async def a_process(*flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "quickthaw.worker",
        *flags,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **{name: value for name, value in os.environ.items() if name != "QUICKTHAW_KEY"},
            "PYTHONPATH": os.pathsep.join(str(root / each) for each in ROOTS),
        },
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY)
    return path


def flags(scheduler: FakeScheduler, tmp_path: Path, key_file: Path, *more: str) -> list[str]:
    words = ["--scheduler", scheduler.address, "--key-file", str(key_file), "--worker-id", "w1"]
    return [*words, "--data-dir", str(tmp_path / "data"), "--device", "cpu", *more]


async def test_it_says_once_that_it_is_ready_serves_metrics_and_drains_at_sigterm(
    scheduler: FakeScheduler, tmp_path: Path, key_file: Path
) -> None:
    more = ("--families", "noop")
    async with a_process(*flags(scheduler, tmp_path, key_file, *more)) as process:
        assert process.stdout is not None
        session = await scheduler.attached()
        session.welcome()
        line = (await process.stdout.readline()).decode()
        found = re.fullmatch(
            r"quickthaw-worker ready worker=w1 metrics=(http://\S+/metrics) start_ms=\d+\n", line
        )
        assert found, line
        text = (await asyncio.to_thread(urllib.request.urlopen, found[1])).read().decode()
        assert "quickthaw_worker_stream_connected 1.0" in text
        session.assign("a1", input_json='{"run_ms": 200}')
        await session.next("running", "a1")
        process.send_signal(signal.SIGTERM)
        end = await session.finished("a1")
        assert end.outcome == types_pb2.REQUEST_STATE_SUCCEEDED
        await session.next("goodbye")
        rest, _ = await process.communicate()
        assert (process.returncode, rest) == (0, b"")


async def test_a_whole_worker_is_ready_without_a_gpu_and_says_nothing_of_nvml(
    scheduler: FakeScheduler, tmp_path: Path, key_file: Path
) -> None:
    words = flags(scheduler, tmp_path, key_file, "--pinned-bytes", "64MiB")
    words[words.index("--device") + 1] = "cpu" if HAS_GPU else "auto"
    async with a_process(*words) as process:
        assert process.stdout is not None
        (await scheduler.attached()).welcome()
        assert (await process.stdout.readline()).startswith(b"quickthaw-worker ready")
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0
        assert b"nvml" not in log.lower()
        assert b"WARNING" not in log
        assert b"torchvision" not in log


async def test_a_killed_process_comes_back_as_a_new_incarnation(
    scheduler: FakeScheduler, tmp_path: Path, key_file: Path
) -> None:
    words = flags(scheduler, tmp_path, key_file, "--families", "noop")
    async with a_process(*words) as process:
        first = await scheduler.attached()
        first.welcome()
        first.assign("a1", input_json='{"run_ms": 600000}')
        await first.next("running", "a1")
        process.kill()
        await process.wait()
    async with a_process(*words):
        second = await scheduler.attached()
        assert second.hello.worker_id == first.hello.worker_id
        assert second.hello.incarnation != first.hello.incarnation
        assert not second.hello.attempts


async def test_bad_settings_exit_with_2_and_name_the_flag() -> None:
    async with a_process("--scheduler", "127.0.0.1:1", "--vram-bytes", "much") as process:
        out, log = await process.communicate()
        assert process.returncode == 2
        assert out == b""
        assert log.startswith(b"quickthaw-worker: --vram-bytes: 'much' is no size")


async def test_a_wrong_key_exits_with_1_and_the_schedulers_words(
    scheduler: FakeScheduler, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("qt_wrong")
    words = flags(scheduler, tmp_path, key_file, "--families", "noop")
    async with a_process(*words) as process:
        out, log = await process.communicate()
        assert (process.returncode, out) == (1, b"")
        assert b"quickthaw-worker: the key is not known" in log
        assert b"Traceback" not in log


async def test_a_blob_store_that_cannot_be_used_exits_with_2_and_names_the_flag(
    scheduler: FakeScheduler, tmp_path: Path, key_file: Path
) -> None:
    (tmp_path / "probes").write_text("a file where a folder must be")
    more = ("--families", "noop", "--blob-store", str(tmp_path))
    async with a_process(*flags(scheduler, tmp_path, key_file, *more)) as process:
        out, log = await process.communicate()
        assert (process.returncode, out) == (2, b"")
        assert f"--blob-store {str(tmp_path)!r} cannot be written".encode() in log
        assert b"Traceback" not in log


async def test_a_taken_metrics_port_is_told(
    scheduler: FakeScheduler, tmp_path: Path, key_file: Path
) -> None:
    more = ("--families", "noop", "--metrics", scheduler.address)
    async with a_process(*flags(scheduler, tmp_path, key_file, *more)) as process:
        _, log = await process.communicate()
        assert process.returncode == 1
        assert b"the metrics endpoint cannot listen on" in log
        assert b"Traceback" not in log
