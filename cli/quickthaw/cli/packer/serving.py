"""One packer process: leases deployments one after another until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence

from obstore.store import ObjectStore

from quickthaw.cli.packer.isolation import Wall
from quickthaw.cli.packer.job import Job
from quickthaw.cli.packer.settings import PackerSettings
from quickthaw.cli.packer.staging import prune
from quickthaw.cli.packer.walls import find_walls
from quickthaw.client import AsyncClient
from quickthaw.client.settings import read_key_file
from quickthaw.wire.blob_store import open_blob_store
from quickthaw.wire.errors import FailedPrecondition, QuickthawError, SettingsInvalid

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
LOCK_FILE = "packer.lock"


async def serve(settings: PackerSettings, on_ready: Callable[[Sequence[Wall]], None]) -> None:
    """Until SIGTERM or SIGINT: what is under way is given back by its lease. `on_ready` is told
    which walls stand around what tenants bring. Raises SettingsInvalid, FailedPrecondition."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = open_blob_store(settings.blob_store)
    with _held(settings):
        walls = await find_walls(settings)
        client = AsyncClient(settings.scheduler, read_key_file(settings.key_file), tls=settings.tls)
        async with client:
            on_ready(walls)

            async def work() -> None:
                told = ""
                while True:
                    told = await _next(client, settings, store, told)

            working = asyncio.create_task(work())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (working, stopping):
                task.cancel()
            ended, _ = await asyncio.gather(working, stopping, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended


async def _next(
    client: AsyncClient, settings: PackerSettings, store: ObjectStore, told: str
) -> str:
    """What went wrong, which is told where it is not what was told last; empty for nothing."""
    limits = settings.limits
    try:
        leased = await client.deployments.lease(
            wait_ms=round(limits.wait_seconds * 1000), lease_ms=round(limits.lease_seconds * 1000)
        )
        prune(settings.work_dir, time.time(), limits.keep_seconds)
        if leased is not None:
            await Job(client, settings, store, leased).run()
    except QuickthawError as error:
        # A scheduler that restarts, most often; whatever was leased comes again.
        if error.message != told:
            logger.warning("%s", error.message)
        await asyncio.sleep(PAUSE_SECONDS)
        return error.message
    return ""


@contextlib.contextmanager
def _held(settings: PackerSettings) -> Iterator[None]:
    """The folder for this process alone. What an earlier one left in it may be gone on with."""
    folder = settings.work_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Whoever packs as another user has to pass it; what is in it cannot be listed.
        folder.chmod(0o711 if settings.pack_user else 0o700)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsInvalid(f"--work-dir {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPrecondition(
                f"another packer works in {folder}; give each its own --work-dir"
            ) from error
        prune(folder, time.time(), settings.limits.keep_seconds)
        yield
    finally:
        os.close(descriptor)
