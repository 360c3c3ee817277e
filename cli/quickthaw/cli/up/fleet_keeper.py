"""Keeps the workers of a fleet running, whatever provisions them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from quickthaw.cli.errors import PartFailed
from quickthaw.cli.fleet import Exited, Provisioner, Ready, WorkerSpec
from quickthaw.cli.up.restart import Restarts
from quickthaw.cli.up.settings import UpSettings
from quickthaw.wire.errors import QuickthawError
from quickthaw.wire.process import describe_status


class FleetKeeper:
    """Starts each worker of `specs` and starts it again when it dies."""

    def __init__(
        self,
        provisioner: Provisioner,
        specs: Sequence[WorkerSpec],
        settings: UpSettings,
        report: Callable[[str], None],
        on_ready: Callable[[Ready], None],
    ) -> None:
        self._provisioner = provisioner
        self._specs = {spec.worker_id: spec for spec in specs}
        self._settings = settings
        self._report = report
        self._on_ready = on_ready
        self._ready: set[str] = set()
        self._ever_ready: set[str] = set()
        self.all_ready = asyncio.Event()
        """Set once every worker has been ready."""

    async def keep(self) -> None:
        """Never returns. Raises PartFailed if a worker cannot start or is in a crash loop."""
        restarts = {
            worker_id: Restarts(worker_id, self._settings.restart) for worker_id in self._specs
        }
        try:
            async with asyncio.TaskGroup() as pauses:
                for spec in self._specs.values():
                    await self._provisioner.create(spec)
                async for change in self._provisioner.watch():
                    if isinstance(change, Ready):
                        self._take_ready(change)
                    elif change.worker_id in self._specs:
                        pauses.create_task(self._restart(change, restarts[change.worker_id]))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    def _take_ready(self, change: Ready) -> None:
        self._ready.add(change.worker_id)
        self._ever_ready.add(change.worker_id)
        self._on_ready(change)
        if self._ever_ready == self._specs.keys():
            self.all_ready.set()

    async def _restart(self, change: Exited, restarts: Restarts) -> None:
        name = change.worker_id
        said = describe_status(change.status)
        if name not in self._ever_ready:
            # The first start: what fails now would fail again.
            raise PartFailed(f"worker {name} {said} before it was ready", change.last_lines)
        now = asyncio.get_running_loop().time()
        pause = restarts.pause_seconds(now, name in self._ready, change.last_lines)
        self._ready.discard(name)
        self._report(f"worker {name} {said}; starting it again")
        await asyncio.sleep(pause)
        try:
            await self._provisioner.create(self._specs[name])
        except QuickthawError as error:
            raise PartFailed(f"worker {name} cannot be started again: {error.message}") from error
