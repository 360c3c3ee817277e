"""What is on its way into a cache of compiled code, and goes whatever becomes of its maker.

Each piece is locked by the process that works on it. The kernel drops a lock with its holder, so
what nobody holds was left behind by one that was killed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from quickthaw.snapshot.compiled.seal import private_folder

_FOLDER = "work-"
_FILE = "."


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """A new folder below `root` that only we can enter, removed at the end."""
    with ExitStack() as held:
        yield _new_folder(root, held)


def _new_folder(root: Path, held: ExitStack) -> Path:
    while True:
        path = private_folder(root / f"{_FOLDER}{secrets.token_hex(8)}")
        # Another process may sweep it between its making and its lock.
        with suppress(FileNotFoundError, BlockingIOError):
            if held.enter_context(_held(path)):
                held.callback(shutil.rmtree, path, ignore_errors=True)
                return path


@contextmanager
def scratch_file(target: Path) -> Iterator[int]:
    """A descriptor to write to; its file takes the name `target` at the end, or goes."""
    path, descriptor = _new_file(target)
    try:
        yield descriptor
        path.rename(target)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _new_file(target: Path) -> tuple[Path, int]:
    """Locked, and there: another process may sweep it between its making and its lock."""
    while True:
        path = target.with_name(f"{_FILE}{target.name}-{secrets.token_hex(8)}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def sweep(root: Path) -> None:
    """Removes what killed processes left in the cache at `root`."""
    for path in root.glob(f"{_FOLDER}*"):
        with suppress(OSError), _held(path) as is_there:
            if is_there:
                shutil.rmtree(path, ignore_errors=True)
    for path in root.glob(f"*/{_FILE}*"):
        with suppress(OSError), _held(path) as is_there:
            if is_there:
                path.unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether `path` is still there once we hold it. Raises BlockingIOError if another does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(descriptor).st_nlink > 0
    finally:
        os.close(descriptor)
