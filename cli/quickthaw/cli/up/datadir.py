"""The files of a data directory that belong to `up` itself: lock, run file, Prometheus targets."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from quickthaw.wire.errors import (
    FailedPrecondition,
    QuickthawError,
    SettingsInvalid,
    StorageFull,
)
from quickthaw.wire.process import Address, address_in_use

LOCK_FILE = "up.lock"
TARGETS_FILE = "prometheus-targets.json"
RETRY_SECONDS = 15.0


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Makes the directory and holds it for this process.

    The kernel drops the lock with the process, so one that was killed leaves nothing to clean up.
    Raises FailedPrecondition naming the process that holds it, SettingsInvalid if the directory
    cannot be made, StorageFull.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise FailedPrecondition(
                f"a platform is already running on {data_dir} (pid {holder}); stop it, or choose "
                "another --data-dir",
                metadata={"pid": holder},
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise _unusable(data_dir, error) from error
        yield
    finally:
        os.close(descriptor)


def _unusable(data_dir: Path, error: OSError) -> QuickthawError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"{data_dir}: no space left to start a platform in")
    return SettingsInvalid(f"--data-dir {data_dir}: {error.strerror}")


def check_free(what: str, address: Address) -> None:
    """Raises AddressInUse, or SettingsInvalid for an address that is not this machine's.

    The part itself would fail too, but only after seconds and in its own log.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: connections of a predecessor that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise address_in_use(what, address) from error
            raise SettingsInvalid(f"{what} cannot listen on {address}: {error.strerror}") from error


def write_json(path: Path, content: object) -> None:
    """Readers see the old file or the new one, never a part of one."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


class KeptFiles:
    """Has `write` called after each change, and again while the disk does not take it, which is no
    reason to end what runs."""

    def __init__(
        self,
        write: Callable[[], None],
        report: Callable[[str], None],
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._write = write
        self._report = report
        self._retry_seconds = retry_seconds
        self.changed = asyncio.Event()

    async def keep(self) -> None:
        """Never returns."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            try:
                self._write()
            except OSError as error:
                self._report(f"what runs where cannot be written: {error}; it is tried again")
                self.changed.set()
                await asyncio.sleep(self._retry_seconds)


def write_targets(data_dir: Path, metrics: Mapping[str, str]) -> None:
    """Prometheus' file_sd format; `metrics` is each part's URL by its name."""
    targets = [
        {
            "targets": [urlsplit(url).netloc],
            "labels": {
                "__metrics_path__": urlsplit(url).path or "/metrics",
                "component": name.partition("-")[0],
                "part": name,
            },
        }
        for name, url in sorted(metrics.items())
    ]
    write_json(data_dir / TARGETS_FILE, targets)
