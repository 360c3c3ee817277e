"""Keeps the workers of a fleet running, whatever provisions them, as many as are wanted."""

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
    """Starts workers of `specs` and starts again what dies, while it is wanted.

    `first`: how many are wanted from the beginning; all of them if it is left out.
    """

    def __init__(
        self,
        provisioner: Provisioner,
        specs: Sequence[WorkerSpec],
        settings: UpSettings,
        report: Callable[[str], None],
        on_ready: Callable[[Ready], None],
        first: int | None = None,
    ) -> None:
        self._provisioner = provisioner
        self._specs = {spec.worker_id: spec for spec in specs}
        self._settings = settings
        self._report = report
        self._on_ready = on_ready
        self._wanted = dict.fromkeys(list(self._specs)[:first])
        self._running: set[str] = set()
        self._ready: set[str] = set()
        self._ever_ready: set[str] = set()
        self._restarts = {each: Restarts(each, settings.restart) for each in self._specs}
        self._crash_pause = dict.fromkeys(self._specs, settings.crash_pause_seconds)
        self._tasks: asyncio.TaskGroup | None = None
        self.all_ready = asyncio.Event()
        """Set once every worker that was wanted from the beginning has been ready."""
        self._first = set(self._wanted)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The workers that are to run, oldest first."""
        return tuple(self._wanted)

    async def keep(self) -> None:
        """Never returns. Raises PartFailed if one of those that were wanted from the beginning
        cannot be started the first time, and what the provisioner raised if it cannot be asked for.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for worker_id in self._first:
                    await self._create(worker_id)
                self._note_ready()
                async for change in self._provisioner.watch():
                    if isinstance(change, Ready):
                        self._take_ready(change)
                    elif change.worker_id in self._specs:
                        self._tasks.create_task(self._take_exit(change))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    def grow(self, count: int) -> None:
        """Starts workers until so many are wanted, or all of them. `keep` must be running."""
        assert self._tasks is not None, "keep it first"
        for worker_id in self._specs:
            if len(self._wanted) >= count:
                return
            if worker_id not in self._wanted:
                self._wanted[worker_id] = None
                self._report(f"worker {worker_id} is needed")
                if worker_id not in self._running:
                    self._tasks.create_task(self._start(worker_id, pause_seconds=0))

    def let_go(self, worker_id: str) -> None:
        """The worker was told to stop when it has nothing left; it is not started again."""
        self._wanted.pop(worker_id, None)
        self._report(f"worker {worker_id} is not needed any more")

    async def _create(self, worker_id: str) -> None:
        self._running.add(worker_id)
        await self._provisioner.create(self._specs[worker_id])

    def _take_ready(self, change: Ready) -> None:
        self._ready.add(change.worker_id)
        self._ever_ready.add(change.worker_id)
        self._on_ready(change)
        self._note_ready()

    def _note_ready(self) -> None:
        if self._first <= self._ever_ready:
            self.all_ready.set()

    async def _take_exit(self, change: Exited) -> None:
        name = change.worker_id
        said = describe_status(change.status)
        was_ready = name in self._ready
        self._ready.discard(name)
        self._running.discard(name)
        if name not in self._wanted:
            self._report(f"worker {name} {said}, as it was told to")
            await self._provisioner.forget(name)
            return
        if name in self._first - self._ever_ready:
            # The platform's own start: what fails now would fail again.
            raise PartFailed(f"worker {name} {said} before it was ready", change.last_lines)
        await self._start(name, self._pause_seconds(name, was_ready, said, change.last_lines))

    async def _start(self, name: str, pause_seconds: float) -> None:
        """After a pause, and again until it can be asked for, or is not wanted any more."""
        while True:
            await asyncio.sleep(pause_seconds)
            if name not in self._wanted or name in self._running:
                return
            try:
                await self._create(name)
            except QuickthawError as error:
                self._running.discard(name)
                said = f"cannot be started: {error.message}"
                pause_seconds = self._pause_seconds(name, False, said)
            else:
                return

    def _pause_seconds(
        self, name: str, was_ready: bool, said: str, last_lines: tuple[str, ...] = ()
    ) -> float:
        """A crash loop of one worker is no reason to take the others down: it is tried again, ever
        more rarely."""
        now = asyncio.get_running_loop().time()
        try:
            pause = self._restarts[name].pause_seconds(now, was_ready, last_lines)
        except PartFailed as loop:
            pause = self._crash_pause[name]
            self._crash_pause[name] = min(2 * pause, self._settings.crash_pause_seconds_max)
            last = f"; its last words: {last_lines[-1]}" if last_lines else ""
            self._report(f"{loop}: worker {name} is tried again in {pause:.0f} s{last}")
            return pause
        if was_ready:
            self._crash_pause[name] = self._settings.crash_pause_seconds
        self._report(f"worker {name} {said}; starting it again")
        return pause
