"""The published fal_client on the queue: webhooks, start timeouts, priority and hints."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from quickthaw.cli.pointing import Place, variables
from quickthaw.v1 import inference_pb2
from support import fal_queue_script
from support.patience import PATIENCE_SECONDS
from support.receiver import a_receiver
from support.whole import a_whole_platform


async def test_the_queues_finer_points_hold_for_the_published_client(tmp_path: Path) -> None:
    with a_receiver() as receiver:
        async with a_whole_platform(tmp_path, with_tls=True) as whole:
            pointing = variables("fal", Place(whole.url, whole.key, tmp_path / "tls"))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", fal_queue_script.__file__, receiver.url),
                env={**os.environ, **pointing},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await process.stdout.readline() == b"ready\n"
                async with whole.worker():
                    process.stdin.write(b"go\n")
                    out, _ = await process.communicate()
            made = await whole.scheduler.admin.inference.List(inference_pb2.ListRequestsRequest())
        assert process.returncode == 0
        told = json.loads(out)
        hooks = {each.path: each.json for each in (receiver.take(), receiver.take())}
    assert told["run_too_late"] == [504, "request_timeout"]
    assert len(made.requests) == 5, "the answer's header tells the client not to try again"
    assert told["queued_too_late"] == [504, "request_timeout"]
    assert told["wrong"][0] == 422
    assert told["positions"] == [1, 0], "a low request waits behind a normal one"
    assert told["right"][0] == "worker-1"
    assert hooks["/wrong"]["request_id"] == told["wrong"][1]
    assert hooks["/wrong"]["status"] == "ERROR"
    assert hooks["/right"]["request_id"] == told["right"][1]
    assert hooks["/right"]["status"] == "OK"
