"""Worker processes forked from a parent without CUDA, on a real device."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import fleet_pb2
from support.fake_scheduler import FakeScheduler
from support.studio import PINNED, SUCCEEDED
from support.tiny_models import tiny_sd
from support.worker_process import draw_despite_a_fault

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

FORKS = """
import os, sys, torch
from quickthaw.worker.prepared import WorkerProgram
program = WorkerProgram(("noop", "sd", "sdxl", "flux"))
for _ in program.imports():
    continue
assert torch.cuda.is_available()
assert not torch.cuda.is_initialized()
for _ in range(2):
    child = os.fork()
    if not child:
        assert torch.ones(8, device="cuda").sum().item() == 8
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_what_a_host_imports_leaves_its_children_the_device() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_real_fault_costs_a_process_and_not_the_pinned_tier(tmp_path: Path) -> None:
    digest = pack(tiny_sd(), SnapshotStore(tmp_path / "packed"))

    async def drawn() -> tuple[fleet_pb2.AttemptFinished, str]:
        async with FakeScheduler() as scheduler:
            return await draw_despite_a_fault(
                scheduler, tmp_path / "packed", digest, tmp_path, "cuda"
            )

    end, log = asyncio.run(drawn())  # pytest's plugin for that may be missing where a GPU is
    assert end.outcome == SUCCEEDED, end.failure
    assert end.start_tier == PINNED
    assert "the device is lost to this process" in log
