"""Workers as processes of their own, their lines read as they come."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from quickthaw.v1 import fleet_pb2
from support.fake_scheduler import KEY, FakeScheduler, Session
from support.patience import PATIENCE_SECONDS

TESTS = Path(__file__).parents[1]


@asynccontextmanager
async def a_process(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def the_line(process: asyncio.subprocess.Process, pattern: str) -> re.Match[str]:
    """The next line on stdout that looks like this."""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if found := re.fullmatch(pattern + r"\n", line):
            return found
    raise AssertionError(f"no line {pattern!r}")


async def draw_despite_a_fault(
    scheduler: FakeScheduler, folder: Path, digest: str, data_dir: Path, device: str
) -> tuple[fleet_pb2.AttemptFinished, str]:
    """The end of the second attempt at a picture, and all that the worker logged.

    The device breaks under the first one, of which nobody may be told an end: it is lost, like that
    of a worker that was killed.
    """

    def assign(session: Session, attempt: int) -> str:
        attempt_id = f"a{attempt}"
        session.assign(
            attempt_id,
            attempt=attempt,
            family="sd",
            model="test/sd",
            snapshot_digest=digest,
            snapshot_uri=str(folder),
            input_json='{"prompt": "x", "num_inference_steps": 1, "seed": 7}',
        )
        return attempt_id

    key_file = data_dir / "key"
    key_file.write_text(KEY)
    flags = ["--scheduler", scheduler.address, "--key-file", str(key_file), "--worker-id", "w1"]
    flags += ["--data-dir", str(data_dir / "worker"), "--device", device]
    flags += ["--families", "noop,sd", "--pinned-bytes", "64MiB"]
    async with a_process("support.faulty_worker", *flags) as process:
        first = await scheduler.attached()
        first.welcome()
        await the_line(process, "quickthaw-worker ready .*")
        assign(first, 1)
        second = await scheduler.attached()
        second.welcome()
        await the_line(process, "quickthaw-worker ready .*")
        assert not first.seen("finished")
        assert second.hello.incarnation != first.hello.incarnation
        assert not second.hello.attempts
        end = await second.finished(assign(second, 2))
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0
        return end, log.decode()
