"""A worker on its own: the parent that forks it, and when it is forked again."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from quickthaw.worker.faults import EXIT_DEVICE_FAULT
from support.fake_scheduler import FakeScheduler
from support.studio import PINNED, SUCCEEDED, Packed
from support.worker_process import a_process, draw_despite_a_fault, the_line


async def test_a_killed_worker_comes_back_over_the_slab_it_left() -> None:
    async with a_process("support.pretend_supervisor", "ready:-9", "ready:3") as process:
        assert process.stdout is not None
        lives = [await the_line(process, r"life (\d) pid (\d+) parent (\d+)") for _ in range(3)]
        assert [life[1] for life in lives] == ["0", "1", "2"]
        assert len({life[2] for life in lives}) == 3
        assert {life[3] for life in lives} == {str(process.pid)}
        await the_line(process, "waiting")
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 0


@pytest.mark.parametrize(("end", "status"), [("ready:1", 1), ("early:2", 2), ("ready:0", 0)])
async def test_an_end_that_a_new_process_cannot_cure_is_the_parents_own(
    end: str, status: int
) -> None:
    async with a_process("support.pretend_supervisor", end) as process:
        out, _ = await process.communicate()
        assert process.returncode == status
        assert out.count(b"life") == 1


async def test_a_worker_that_keeps_dying_before_it_is_ready_is_given_up() -> None:
    async with a_process("support.pretend_supervisor", *("early:3",) * 9) as process:
        out, log = await process.communicate()
        assert process.returncode == EXIT_DEVICE_FAULT
        # Twice, and over an empty slab the second time: what is in it might be the reason.
        assert re.findall(rb"life (\d)", out) == [b"0", b"0"]
        assert b"the worker failed to start 2 times in a row; giving up" in log


async def test_a_worker_does_not_outlive_its_killed_parent() -> None:
    async with a_process("support.pretend_supervisor") as process:
        await the_line(process, "waiting")
        process.kill()
        assert process.stdout is not None
        # The worker has the other end of this pipe too: it ends when both are gone.
        assert await process.stdout.read() == b""


async def test_a_fault_of_the_device_costs_a_process_and_not_the_pinned_tier(
    scheduler: FakeScheduler, packed: Packed, tmp_path: Path
) -> None:
    end, log = await draw_despite_a_fault(
        scheduler, packed.folder, packed.digests["sd"], tmp_path, "cpu"
    )
    assert end.outcome == SUCCEEDED, end.failure
    assert end.start_tier == PINNED
    assert "the device is lost to this process" in log
    assert "the worker ended with status 3; starting it again" in log
