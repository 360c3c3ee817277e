"""Workers on this machine, forked by one host process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from quickthaw.cli.fleet.hosted import HostedWorker, WorkerHost
from quickthaw.cli.fleet.provisioner import Exited, InstanceChange, Offer, Ready, WorkerSpec
from quickthaw.wire.errors import FailedPrecondition, Unavailable, WorkerNotFound
from quickthaw.wire.hosting import new_slab

KILL_MARGIN_SECONDS = 5.0
"""What a worker gets beyond its own drain time before it is killed."""


@dataclass(frozen=True, slots=True)
class _Running:
    spec: WorkerSpec
    host: WorkerHost
    worker: HostedWorker


class LocalFleet:
    """Has `module` (the worker host) fork workers, which die with it and it with this process.

    Each worker id has a slab's memory here, which neither the worker's death nor the host's
    touches: the next worker of that id finds its pinned tier as it was.
    """

    def __init__(
        self,
        logs: Path,
        gpus: int,
        module: str = "quickthaw.worker.host",
        log_level: str = "info",
    ) -> None:
        self._logs = logs
        self._gpus = gpus
        self._module = module
        self._log_level = log_level
        self._host: WorkerHost | None = None
        self._starting = asyncio.Lock()
        self._running: dict[str, _Running] = {}
        self._slabs: dict[str, int] = {}
        self._changes: asyncio.Queue[InstanceChange] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        await self._living_host()

    async def offers(self) -> tuple[Offer, ...]:
        cpu = Offer("cpu", os.cpu_count() or 1)
        return (Offer("cuda", self._gpus), cpu) if self._gpus else (cpu,)

    async def create(self, spec: WorkerSpec) -> None:
        if spec.worker_id in self._running:
            raise FailedPrecondition(f"worker {spec.worker_id} runs already")
        try:
            if spec.worker_id not in self._slabs:
                self._slabs[spec.worker_id] = new_slab(spec.worker_id)
            host = await self._living_host()
            worker = await host.start_worker(
                spec.worker_id, spec.arguments(spec.key_file), self._slabs[spec.worker_id]
            )
        except OSError as error:
            raise Unavailable(f"worker {spec.worker_id} cannot be started: {error}") from error
        self._running[spec.worker_id] = _Running(spec, host, worker)
        task = asyncio.create_task(self._follow(spec.worker_id, worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def destroy(self, worker_id: str) -> None:
        if worker_id not in self._running:
            raise WorkerNotFound(f"no worker {worker_id} runs here")
        await self._stop(self._running[worker_id])
        self._drop_slab(worker_id)

    async def forget(self, worker_id: str) -> None:
        if worker_id not in self._running:
            self._drop_slab(worker_id)

    async def watch(self) -> AsyncIterator[InstanceChange]:
        while True:
            yield await self._changes.get()

    async def close(self) -> None:
        await asyncio.gather(*(self._stop(each) for each in tuple(self._running.values())))
        await asyncio.gather(*self._tasks)
        host, self._host = self._host, None
        if host is not None:
            await host.close()
        for worker_id in tuple(self._slabs):
            self._drop_slab(worker_id)

    def kill(self) -> None:
        """Kills every worker at once, for an owner that cannot wait."""
        if self._host is not None:
            self._host.kill()

    async def _living_host(self) -> WorkerHost:
        """Raises OSError if none can be started."""
        async with self._starting:
            if self._host is None or not self._host.alive:
                self._host = await WorkerHost.start(
                    self._module, self._logs, ("--log-level", self._log_level)
                )
            return self._host

    async def _stop(self, running: _Running) -> None:
        grace = running.spec.drain_seconds + KILL_MARGIN_SECONDS
        await running.host.stop_worker(running.worker, running.spec.worker_id, grace)

    def _drop_slab(self, worker_id: str) -> None:
        if (slab := self._slabs.pop(worker_id, None)) is not None:
            os.close(slab)

    async def _follow(self, worker_id: str, worker: HostedWorker) -> None:
        values = await worker.ready()
        if values is not None:
            pid = worker.pid.result() if worker.pid.done() else 0
            self._changes.put_nowait(Ready(worker_id, pid, values.get("metrics", "")))
        status = await worker.exited()
        del self._running[worker_id]
        if values is None:
            # What is in the slab may be why it could not start.
            self._drop_slab(worker_id)
        self._changes.put_nowait(Exited(worker_id, status, worker.last_lines))
