"""What runs inside a Ray actor: one worker process, started, waited for, stopped."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from quickthaw.cli.errors import PartFailed
from quickthaw.cli.fleet.provisioner import WorkerSpec
from quickthaw.cli.up.process import Command, Process


class WorkerHost:
    """An asyncio actor: its methods run side by side on one loop.

    The worker is on a tether, so it dies with the actor. Its key is a file that only this user can
    read, removed when the worker has ended.
    """

    async def start(self, spec: WorkerSpec, key: str, logs: str, module: str) -> int:
        """The worker's process id. `key` comes over Ray, since the file may be elsewhere."""
        descriptor, name = tempfile.mkstemp(prefix="quickthaw-worker-key-")
        with os.fdopen(descriptor, "w") as file:
            file.write(key)
        self._key_file = Path(name)
        command = Command(
            name=spec.worker_id,
            arguments=(module, *spec.arguments(self._key_file)),
            ready_word="quickthaw-worker",
            log=Path(logs) / f"{spec.worker_id}.log",
            environment={},
        )
        try:
            self._process = await Process.start(command)
        except OSError:
            self._key_file.unlink()
            raise
        return self._process.pid

    async def ready(self) -> str | None:
        """The URL of the worker's metrics; None if it ended first."""
        try:
            values = await self._process.ready()
        except PartFailed:
            return None
        return values.get("metrics", "")

    async def exited(self) -> tuple[int, tuple[str, ...]]:
        """Exit status and last lines, when the process is gone."""
        status = await self._process.exited()
        self._key_file.unlink(missing_ok=True)
        return status, self._process.last_lines

    async def stop(self, grace_seconds: float) -> int:
        return await self._process.stop(grace_seconds)
