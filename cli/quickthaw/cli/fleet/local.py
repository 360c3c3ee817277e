"""Workers as child processes of this one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from quickthaw.cli.errors import PartFailed
from quickthaw.cli.fleet.provisioner import Exited, InstanceChange, Offer, Ready, WorkerSpec
from quickthaw.cli.up.process import Command, Process
from quickthaw.wire.errors import FailedPrecondition, Unavailable, WorkerNotFound

KILL_MARGIN_SECONDS = 5.0
"""What a worker gets beyond its own drain time before it is killed."""


class LocalFleet:
    """Starts `module` (the worker) on this machine. Dies with its workers, and they with it."""

    def __init__(self, logs: Path, gpus: int, module: str = "quickthaw.worker") -> None:
        self._logs = logs
        self._gpus = gpus
        self._module = module
        self._running: dict[str, tuple[WorkerSpec, Process]] = {}
        self._changes: asyncio.Queue[InstanceChange] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def offers(self) -> tuple[Offer, ...]:
        cpu = Offer("cpu", os.cpu_count() or 1)
        return (Offer("cuda", self._gpus), cpu) if self._gpus else (cpu,)

    async def create(self, spec: WorkerSpec) -> None:
        if spec.worker_id in self._running:
            raise FailedPrecondition(f"worker {spec.worker_id} runs already")
        command = Command(
            name=spec.worker_id,
            arguments=(self._module, *spec.arguments(spec.key_file)),
            ready_word="quickthaw-worker",
            log=self._logs / f"{spec.worker_id}.log",
            environment={},
        )
        try:
            process = await Process.start(command)
        except OSError as error:
            raise Unavailable(f"worker {spec.worker_id} cannot be started: {error}") from error
        self._running[spec.worker_id] = (spec, process)
        task = asyncio.create_task(self._follow(spec.worker_id, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def destroy(self, worker_id: str) -> None:
        if worker_id not in self._running:
            raise WorkerNotFound(f"no worker {worker_id} runs here")
        spec, process = self._running[worker_id]
        await process.stop(spec.drain_seconds + KILL_MARGIN_SECONDS)

    async def watch(self) -> AsyncIterator[InstanceChange]:
        while True:
            yield await self._changes.get()

    async def close(self) -> None:
        running = tuple(self._running.values())
        await asyncio.gather(
            *(process.stop(spec.drain_seconds + KILL_MARGIN_SECONDS) for spec, process in running)
        )
        await asyncio.gather(*self._tasks)

    def kill(self) -> None:
        """Kills every worker at once, for an owner that cannot wait."""
        for _spec, process in self._running.values():
            process.kill()

    async def _follow(self, worker_id: str, process: Process) -> None:
        try:
            values = await process.ready()
            self._changes.put_nowait(Ready(worker_id, process.pid, values.get("metrics", "")))
        except PartFailed:
            pass
        status = await process.exited()
        del self._running[worker_id]
        self._changes.put_nowait(Exited(worker_id, status, process.last_lines))
