"""`quickthaw bench replay` against a real scheduler's decision log."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest

from quickthaw.cli.main import execute
from support.fake_worker import FakeWorker
from support.schedulers import FAST, a_scheduler, submission


async def test_a_schedulers_decisions_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, recorded = tmp_path / "data", dataclasses.replace(FAST, decision_log_mib=1)
    async with a_scheduler(data, limits=recorded) as running:
        waiting = await running.admin.submit()
        async with FakeWorker(running.address, running.worker_key, automatic=True):
            for _ in range(5):
                await running.admin.inference.Run(submission())
            await running.admin.until_ended(waiting)
    capsys.readouterr()
    status = await asyncio.to_thread(
        execute, ["bench", "replay", str(data / "decisions"), "--json"]
    )
    (told,) = json.loads(capsys.readouterr().out).values()
    assert status == 0
    assert told["same"]
    assert not told["cut_off"]
    # Each request is queued, assigned and ended.
    assert told["decisions"] >= 3 * 6


def test_a_folder_without_a_log_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["bench", "replay", str(tmp_path)]) == 2
    assert "--decision-log-mib" in capsys.readouterr().err
