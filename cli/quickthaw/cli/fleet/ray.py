"""Workers on a Ray cluster.

One Ray actor per worker starts and reaps the same worker process as everywhere, and does nothing
else: the worker dials the scheduler itself, so no request, picture or weight passes through Ray.
Ray joins the machines, hands out their GPUs and notices when one is gone. `ray` is an optional
dependency: `pip install 'quickthaw[ray]'`.

The cluster is the one that RAY_ADDRESS names (Ray's own variable), else one on this machine.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quickthaw.cli.fleet.provisioner import Exited, InstanceChange, Offer, Ready, WorkerSpec
from quickthaw.cli.fleet.ray_host import WorkerHost
from quickthaw.wire.errors import (
    FailedPrecondition,
    ResourceExhausted,
    SettingsInvalid,
    Unavailable,
    WorkerNotFound,
)
from quickthaw.wire.process import Address
from quickthaw.wire.tls_settings import TLS_SCHEME

PLACE_SECONDS_MAX = 60.0
"""How long Ray may take to find room for an actor and start it."""
STARTS_MAX = 3
"""How often a cluster of our own is tried: Ray gives its parts 30 seconds, which a machine that is
busy may need, and says so with a bare Exception."""
HOST_CPUS = 0.01
"""The actor itself is idle; the worker's CPUs are the operating system's to share out."""
KILL_MARGIN_SECONDS = 10.0
LOST = -9


@dataclass(frozen=True, slots=True)
class _Running:
    spec: WorkerSpec
    actor: Any


def load_ray() -> Any:
    """The library. Raises SettingsInvalid if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise SettingsInvalid(
            "--fleet ray needs Ray, which is not installed here: pip install 'quickthaw[ray]'"
        ) from error
    return ray


def _take_signals_back() -> None:
    """Ray's C++ side replaces the handlers of SIGTERM and SIGINT by one that aborts the process.

    Python still knows its own; installing them again is all it takes.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.getsignal(number))


def _end_what_was_started(error: Exception) -> None:
    """Ends the processes of a cluster that did not come up.

    Ray itself would end them with this process only, and hands nobody the node that it was making:
    the traceback has it.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node: Any = frame.f_locals.get("self")
        if hasattr(node, "kill_all_processes"):
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            return


class RayFleet:
    """A provisioner on the cluster of `address`: `local` for one of its own on this machine.

    `logs` is used on whichever machine a worker runs on.
    """

    def __init__(
        self,
        logs: Path,
        address: str | None = None,
        module: str = "quickthaw.worker",
        **init: object,
    ) -> None:
        self._ray = load_ray()
        self._logs = logs
        self._module = module
        self._init = {"address": address, **init}
        self._connected = False
        self._running: dict[str, _Running] = {}
        self._changes: asyncio.Queue[InstanceChange] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Nothing: a cluster is joined when it is asked for something."""

    async def offers(self) -> tuple[Offer, ...]:
        await self._connect()
        free = await asyncio.to_thread(self._ray.available_resources)
        found = (Offer("cuda", int(free.get("GPU", 0))), Offer("cpu", int(free.get("CPU", 0))))
        return tuple(offer for offer in found if offer.count)

    async def create(self, spec: WorkerSpec) -> None:
        if spec.worker_id in self._running:
            raise FailedPrecondition(f"worker {spec.worker_id} runs already")
        await self._connect()
        # Ray hides all GPUs but the worker's own, which is therefore the first.
        device = "cuda:0" if spec.device.startswith("cuda") else spec.device
        spec = replace(spec, scheduler=self._reachable(spec.scheduler), device=device)
        try:
            key = spec.key_file.read_text()
        except OSError as error:
            raise Unavailable(f"worker {spec.worker_id} cannot be started: {error}") from error
        actor = self._actor(spec)
        self._running[spec.worker_id] = _Running(spec, actor)
        try:
            async with asyncio.timeout(PLACE_SECONDS_MAX):
                pid: int = await actor.start.remote(spec, key, str(self._logs), self._module)
        except TimeoutError as error:
            await self._discard(spec.worker_id)
            raise ResourceExhausted(
                f"Ray found no room for worker {spec.worker_id} within {PLACE_SECONDS_MAX:g} s"
            ) from error
        except self._ray.exceptions.RayError as error:
            await self._discard(spec.worker_id)
            raise Unavailable(f"worker {spec.worker_id} cannot be started: {error}") from error
        task = asyncio.create_task(self._follow(spec.worker_id, actor, pid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def destroy(self, worker_id: str) -> None:
        if worker_id not in self._running:
            raise WorkerNotFound(f"no worker {worker_id} runs here")
        await self._stop(self._running[worker_id])

    async def forget(self, worker_id: str) -> None:
        """Nothing: what a worker had went with its actor."""

    async def watch(self) -> AsyncIterator[InstanceChange]:
        while True:
            yield await self._changes.get()

    async def close(self) -> None:
        await asyncio.gather(*(self._stop(each) for each in tuple(self._running.values())))
        await asyncio.gather(*self._tasks)
        if self._connected:
            await asyncio.to_thread(self._ray.shutdown)

    async def _connect(self) -> None:
        """Joins the cluster once. Raises Unavailable."""
        if self._connected:
            return
        for starts_left in reversed(range(STARTS_MAX)):
            try:
                await asyncio.to_thread(self._join)
                break
            except (ConnectionError, ValueError) as error:
                raise Unavailable(f"the Ray cluster cannot be reached: {error}") from error
            except Exception as error:
                await asyncio.to_thread(_end_what_was_started, error)
                if not starts_left:
                    raise Unavailable(f"Ray cannot be started: {error}") from error
        self._connected = True
        _take_signals_back()

    def _join(self) -> None:
        self._ray.init(log_to_driver=False, logging_level="warning", **self._init)

    def _actor(self, spec: WorkerSpec) -> Any:
        gpus = 1 if spec.device.startswith("cuda") else 0
        decorated: Callable[..., Any] = self._ray.remote(WorkerHost)
        options = {"num_cpus": HOST_CPUS, "num_gpus": gpus, "max_restarts": 0}
        return decorated.options(**options).remote()  # type: ignore[attr-defined]  # Ray types it as a class

    def _reachable(self, scheduler: str) -> str:
        """A scheduler that listens on all addresses is told to workers by this node's own."""
        scheme = TLS_SCHEME if scheduler.startswith(TLS_SCHEME) else ""
        address = Address.parse(scheduler.removeprefix(TLS_SCHEME))
        if address.host not in ("0.0.0.0", "::"):
            return scheduler
        return f"{scheme}{Address(self._ray.util.get_node_ip_address(), address.port)}"

    async def _follow(self, worker_id: str, actor: Any, pid: int) -> None:
        """Tells what the actor tells; an actor that is gone took its worker with it."""
        change = Exited(worker_id, LOST, ("the Ray node or actor was lost",))
        try:
            metrics: str | None = await actor.ready.remote()
            if metrics is not None:
                self._changes.put_nowait(Ready(worker_id, pid, metrics))
            status, last_lines = await actor.exited.remote()
            change = Exited(worker_id, status, tuple(last_lines))
        except self._ray.exceptions.RayError as error:
            change = Exited(worker_id, LOST, tuple(str(error).splitlines()[:1]))
        finally:
            await self._discard(worker_id)
            self._changes.put_nowait(change)

    async def _stop(self, running: _Running) -> None:
        grace = running.spec.drain_seconds + KILL_MARGIN_SECONDS
        try:
            await running.actor.stop.remote(grace)
        except self._ray.exceptions.RayError:
            # The actor is gone, and the worker with it; `_follow` tells.
            return

    async def _discard(self, worker_id: str) -> None:
        running = self._running.pop(worker_id, None)
        if running is not None:
            await asyncio.to_thread(self._ray.kill, running.actor)
