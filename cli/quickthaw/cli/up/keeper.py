"""Keeps one local part running: start, wait, start again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from quickthaw.cli.errors import PartFailed
from quickthaw.cli.up.process import Command, Process
from quickthaw.cli.up.restart import Restarts
from quickthaw.cli.up.settings import UpSettings
from quickthaw.wire.process import describe_status


class Keeper:
    """One part. `make` gives its command from the ready line of its first start.

    A restarted part listens where it did before, so that nobody has to learn a new address.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, str]], Command],
        settings: UpSettings,
        report: Callable[[str], None],
        on_ready: Callable[[str, Mapping[str, str]], None],
    ) -> None:
        self._make = make
        self._settings = settings
        self._report = report
        self._on_ready = on_ready
        self._process: Process | None = None
        self.values: Mapping[str, str] = {}
        """What the ready line said."""

    async def start(self) -> None:
        """The first start. Raises PartFailed: what fails now would fail again."""
        await self._start()

    async def keep(self) -> None:
        """Restarts the part whenever it dies. Never returns; raises PartFailed in a crash loop."""
        assert self._process is not None
        name = self._process.command.name
        restarts = Restarts(name, self._settings.restart)
        was_ready, failure = True, await self._end_of(self._process)
        while True:
            now = asyncio.get_running_loop().time()
            pause = restarts.pause_seconds(now, was_ready, self._process.last_lines)
            self._report(f"{failure}; starting it again")
            await asyncio.sleep(pause)
            try:
                await self._start()
                was_ready, failure = True, await self._end_of(self._process)
            except PartFailed as failed:
                was_ready, failure = False, failed.message

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when the process is gone."""
        if self._process is not None:
            await self._process.stop(self._settings.stop_seconds)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def _end_of(self, process: Process) -> str:
        return f"the {process.command.name} {describe_status(await process.exited())}"

    async def _start(self) -> None:
        command = self._make(self.values)
        try:
            self._process = await Process.start(command)
        except OSError as error:
            raise PartFailed(f"the {command.name} cannot be started: {error}") from error
        try:
            async with asyncio.timeout(self._settings.start_timeout_seconds):
                self.values = await self._process.ready()
        except TimeoutError as error:
            self._process.kill()
            await self._process.exited()
            raise PartFailed(
                f"the {command.name} was not ready within "
                f"{self._settings.start_timeout_seconds:g} s",
                self._process.last_lines,
            ) from error
        self._on_ready(command.name, self.values)
