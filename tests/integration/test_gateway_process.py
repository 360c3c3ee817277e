from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from support.fake_inference import ADMIN_KEY, ALICE_KEY, FakePlatform, served
from support.patience import PATIENCE_SECONDS

KEY = {"authorization": f"Key {ALICE_KEY}"}


@asynccontextmanager
async def a_process(*arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quickthaw.gateway", "--http", "127.0.0.1:0", *arguments),
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready(process: Process) -> dict[str, str]:
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    name, word, *pairs = line.split()
    assert (name, word) == ("quickthaw-gateway", "ready"), line
    return dict(pair.partition("=")[::2] for pair in pairs)


async def ended(process: Process) -> tuple[int | None, str]:
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, errors.decode()


async def test_a_process_serves_until_it_is_told_to_stop_and_ends_what_it_has(
    tmp_path: Path,
) -> None:
    platform = FakePlatform()
    platform.hold()
    key_file = tmp_path / "admin.key"
    key_file.write_text(ADMIN_KEY)
    async with served(platform) as port:
        arguments = ["--scheduler", f"127.0.0.1:{port}", "--metrics", "127.0.0.1:0", "--log-json"]
        arguments += ["--key-file", str(key_file), "--link-secret-file", str(tmp_path / "secret")]
        async with a_process(*arguments) as process:
            where = await ready(process)
            async with httpx.AsyncClient(base_url=where["http"], headers=KEY, timeout=60) as http:
                assert (await http.get("/health/ready")).json()["status"] == "ok"
                assert "quickthaw_gateway_" in (await http.get(where["metrics"])).text
                answer = asyncio.create_task(
                    http.post("/run/quickthaw/shapes", json={"prompt": "x"})
                )
                request = await platform.submitted()
                process.send_signal(signal.SIGTERM)
                await request.succeed(platform.picture(request, b"late"))
                assert (await answer).status_code == 200
            status, log = await ended(process)
    assert status == 0
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    access = [line for line in lines if line["logger"] == "quickthaw.gateway.access"]
    (run,) = [line for line in access if line["surface"] == "run"]
    assert (run["method"], run["status"], run["request_id"]) == ("POST", 200, "req-1")
    assert ALICE_KEY not in log
    assert ADMIN_KEY not in log


async def test_an_idle_process_stops_at_once() -> None:
    async with a_process("--scheduler", "127.0.0.1:9") as process:
        await ready(process)
        process.send_signal(signal.SIGTERM)
        status, _ = await ended(process)
    assert status == 0


async def test_a_request_that_does_not_end_is_cut_off_and_cancelled(tmp_path: Path) -> None:
    platform = FakePlatform()
    platform.hold()
    async with served(platform) as port:
        scheduler = f"127.0.0.1:{port}"
        async with a_process("--scheduler", scheduler, "--drain-seconds", "1") as process:
            where = await ready(process)
            async with httpx.AsyncClient(base_url=where["http"], headers=KEY, timeout=60) as http:
                answer = asyncio.create_task(
                    http.post("/run/quickthaw/shapes", json={"prompt": "x"})
                )
                request = await platform.submitted()
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)
                assert (await answer).status_code == 503
            status, _ = await ended(process)
    assert status == 0


async def test_a_port_in_use_is_a_clear_error() -> None:
    async with a_process("--scheduler", "127.0.0.1:9") as process:
        taken = (await ready(process))["http"].removeprefix("http://")
        async with a_process("--scheduler", "127.0.0.1:9", "--http", taken) as second:
            status, errors = await ended(second)
        assert status == 1
        assert f"the gateway cannot listen on {taken}" in errors
        assert "Traceback" not in errors
        arguments = ("--scheduler", "127.0.0.1:9", "--metrics", taken)
        async with a_process(*arguments) as third:
            status, errors = await ended(third)
        assert status == 1
        assert "the metrics endpoint cannot listen" in errors


async def test_settings_that_cannot_work_are_a_clear_error(tmp_path: Path) -> None:
    missing = tmp_path / "no.key"
    for arguments, said in [
        (("--key-file", str(missing)), "no.key cannot be read"),
        (("--http", "nowhere"), "is no address"),
        (("--http", "203.0.113.7:0"), "203.0.113.7:0"),
        (("--body-bytes-max", "0"), "--body-bytes-max"),
    ]:
        async with a_process("--scheduler", "127.0.0.1:9", *arguments) as process:
            status, errors = await ended(process)
        assert (status, "Traceback" in errors) == (1, False)
        assert said in errors
