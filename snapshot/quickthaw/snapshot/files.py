"""Files that appear whole or not at all, and opening them without following links."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from quickthaw.snapshot.format import Problem, invalid
from quickthaw.wire.errors import FailedPrecondition, StorageFull

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_TEXTS = tuple(f"(os error {code})" for code in FULL)
"""The same in the words of object stores' library, which gives the system's text alone."""
_NO_FILE = frozenset({errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EISDIR})
"""What opening a socket, a device, or something inside of a file ends with."""


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turns "no space left" (or over quota, or over the file size limit) into `StorageFull`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFull(
            f"{path}: {os.strerror(error.errno)} while writing; free some space there and repeat, "
            "nothing was left half written",
            metadata={"path": str(path)},
        ) from error


@contextmanager
def new_file(directory: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file of unique name in `directory`, removed on any error.

    The caller renames it into place with `publish`; until then no reader can meet it.
    """
    path = directory / f"{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with full_disk_named(directory), path.open("xb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def publish(file: BinaryIO, path: Path, target: Path) -> None:
    """Makes a finished `new_file` durable under its real name, replacing an equal one."""
    file.flush()
    os.fsync(file.fileno())
    make_folder(target.parent)
    path.rename(target)
    sync_directory(target.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, durably: else what is in it is lost with its name."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path, *, flags: int = 0) -> int:
    """A read descriptor of a regular file. Links and everything else that is not a file raise."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | flags
        )
    except FileNotFoundError:
        invalid(
            Problem.MISSING,
            str(path),
            "the file is missing from the snapshot; fetch or pack it again",
        )
    except OSError as error:
        if error.errno == errno.ELOOP:
            invalid(Problem.UNSAFE, str(path), "a symbolic link; snapshots hold plain files only")
        if error.errno in _NO_FILE:
            invalid(Problem.UNSAFE, str(path), "not a regular file in a plain folder")
        if flags:
            raise  # the caller tries what the filesystem may not have
        raise FailedPrecondition(
            f"{path}: {os.strerror(error.errno or 0)}; make it readable for this process",
            metadata={"path": str(path)},
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        invalid(Problem.UNSAFE, str(path), "not a regular file")
    return descriptor


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """All of a small regular file; `SnapshotInvalid` if it is larger than `bytes_max`."""
    with os.fdopen(open_regular(path), "rb") as file:
        # Not even read, unless it grows meanwhile.
        size = os.fstat(file.fileno()).st_size
        content = file.read(bytes_max + 1) if size <= bytes_max else b""
    if max(size, len(content)) > bytes_max:
        invalid(Problem.MANIFEST, str(path), f"larger than the limit of {bytes_max} bytes")
    return content


def refuse_link(path: Path) -> None:
    if path.is_symlink():
        invalid(Problem.UNSAFE, str(path), "a symbolic link; snapshots hold plain folders only")
