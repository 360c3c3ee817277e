"""The port between the platform and whatever can start worker processes.

A provisioner starts and reaps; it neither restarts nor schedules. The worker it starts dials the
scheduler itself, so nothing of a provisioner is in the path of a request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Offer:
    """Something a worker could be started on."""

    device: str
    """`cpu` or `cuda`."""
    count: int
    """How many workers of this kind there is room for. For `cpu`, cores."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker to start."""

    worker_id: str
    scheduler: str
    """HOST:PORT, as the worker reaches it."""
    key_file: Path
    """On the machine that asks; a provisioner brings the key to where the worker runs."""
    data_dir: Path
    snapshot_store: Path
    blob_store: str
    device: str
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    vram_bytes: str | None = None
    """A size such as `8GiB`; None leaves it to the worker."""
    pinned_bytes: str | None = None
    """The size of the pinned slab; None leaves it to the worker."""
    prepare: tuple[str, ...] = ()
    """Digests of snapshots that the worker prepares before it is ready."""
    log_level: str = "info"
    drain_seconds: int = 30
    compiled: str = "off"
    """Whether it runs compiled blocks: `off`, `use` or `build`."""
    compiled_cache: Path | None = None
    """Where they are; None for the worker's data directory."""
    options: tuple[str, ...] = ()
    """Further arguments."""

    def arguments(self, key_file: Path, metrics: str = "127.0.0.1:0") -> tuple[str, ...]:
        """The command line after `python -m quickthaw.worker`."""
        pairs = {
            "--scheduler": self.scheduler,
            "--key-file": str(key_file),
            "--data-dir": str(self.data_dir),
            "--worker-id": self.worker_id,
            "--device": self.device,
            "--blob-store": self.blob_store,
            "--snapshot-store": str(self.snapshot_store),
            "--metrics": metrics,
            "--log-level": self.log_level,
            "--drain-seconds": str(self.drain_seconds),
        }
        if self.vram_bytes is not None:
            pairs["--vram-bytes"] = self.vram_bytes
        if self.pinned_bytes is not None:
            pairs["--pinned-bytes"] = self.pinned_bytes
        if self.compiled != "off":
            pairs["--compiled"] = self.compiled
        if self.compiled_cache is not None:
            pairs["--compiled-cache"] = str(self.compiled_cache)
        flat = (*(part for pair in pairs.items() for part in pair), *self.options)
        return (*flat, "--prepare", *self.prepare) if self.prepare else flat


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker said that it is ready."""

    worker_id: str
    pid: int
    metrics: str
    """URL of its metrics."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker's process is gone; the instance needs no `destroy` any more."""

    worker_id: str
    status: int
    """Exit status; -N for signal N."""
    last_lines: tuple[str, ...]


InstanceChange: TypeAlias = Ready | Exited


class Provisioner(Protocol):
    """Starts and reaps worker processes. Belongs to one event loop."""

    async def open(self) -> None:
        """Begins what takes long and depends on no worker. Raises OSError or Unavailable."""
        ...

    async def offers(self) -> tuple[Offer, ...]:
        """What there is room for now."""
        ...

    async def create(self, spec: WorkerSpec) -> None:
        """Has a worker started; returns before it is ready.

        Raises FailedPrecondition if a worker of this id runs already, ResourceExhausted if there
        is no room, Unavailable if the fleet cannot be reached.
        """
        ...

    async def destroy(self, worker_id: str) -> None:
        """Lets the worker drain, then kills it; returns when the process is gone.

        Raises WorkerNotFound if no worker of this id runs.
        """
        ...

    async def forget(self, worker_id: str) -> None:
        """A worker that has exited is not started again: gives back what was kept for it."""
        ...

    def watch(self) -> AsyncIterator[InstanceChange]:
        """What happens to every worker: at most one Ready, exactly one Exited. Never ends."""
        ...

    async def close(self) -> None:
        """Destroys what still runs and gives back what the provisioner holds."""
        ...
