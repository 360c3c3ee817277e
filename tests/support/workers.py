"""A real worker in this process, attached to a scheduler that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quickthaw.worker.agent import Patience
from quickthaw.worker.device import choose_device
from quickthaw.worker.process import Worker
from quickthaw.worker.settings import parse
from support.fake_scheduler import KEY, FakeScheduler

if TYPE_CHECKING:  # a scheduler imports its store's library, which machines with a GPU may lack
    from support.schedulers import Running

IMPATIENT = Patience(
    welcome_seconds=5.0, backoff_base_seconds=0.01, backoff_cap_seconds=0.05, goodbye_seconds=2.0
)


@dataclass
class RunningWorker:
    worker: Worker
    ready: asyncio.Event
    done: asyncio.Task[None]

    def metric(self, name: str, **labels: str) -> float:
        value = self.worker.metrics.registry.get_sample_value(f"quickthaw_worker_{name}", labels)
        assert value is not None, f"no metric {name} {labels}"
        return value


@asynccontextmanager
async def a_worker(
    scheduler: FakeScheduler | Running, data_dir: Path, *flags: str, key: str = KEY
) -> AsyncIterator[RunningWorker]:
    """Runs the worker until the block ends, then makes it leave; `flags` as on the command line."""
    arguments = ["--scheduler", scheduler.address, "--data-dir", str(data_dir)]
    if not isinstance(scheduler, FakeScheduler):
        arguments += ["--blob-store", scheduler.settings.blob_store]  # or it is refused
    arguments += ["--device", "cpu", "--worker-id", "w1", *flags]
    settings = parse(arguments, {"QUICKTHAW_KEY": key})
    ready = asyncio.Event()
    worker = Worker(settings, choose_device(settings), ready.set, IMPATIENT)
    done = asyncio.create_task(worker.run())
    try:
        yield RunningWorker(worker, ready, done)
    finally:
        worker.terminate()
        worker.terminate()
        await asyncio.wait([done])
    done.result()
