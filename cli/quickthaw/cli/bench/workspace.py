"""The folder that a run writes to: found again with `--keep`, else gone when the run ends.

    FOLDER/run-<pid>/    one run's files, locked while it lives
    FOLDER/kept/<key>/   a model and the peers' conversions of it, for later runs

A run that is killed outright leaves its folder behind; the next run sees that nobody holds its
lock and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quickthaw.wire.errors import FailedPrecondition

_LOCK = ".lock"


def default_folder(environ: dict[str, str] | os._Environ[str] = os.environ) -> Path:
    """A folder of the user's cache directory."""
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "quickthaw" / "bench"


@contextmanager
def workspace(folder: Path, key: str, *, keep: bool) -> Iterator[Path]:
    """A folder for this run. With `keep` it is the one of `key`, and stays.

    Raises `FailedPrecondition` while another run uses that one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_over(folder)
    place = folder / "kept" / key if keep else folder / f"run-{os.getpid()}"
    place.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(place)
    if descriptor is None:
        raise FailedPrecondition(
            f"{place} is in use by another run; wait for it, or give this one its own --folder"
        )
    try:
        yield place
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
        os.close(descriptor)


def remove_left_over(folder: Path) -> list[Path]:
    """Removes the folders of runs that are no more; returns them."""
    removed: list[Path] = []
    for place in sorted(folder.glob("run-*")):
        if (descriptor := _lock(place)) is not None:
            shutil.rmtree(place, ignore_errors=True)
            os.close(descriptor)
            removed.append(place)
    return removed


def remove_kept(folder: Path) -> int:
    """Removes what `--keep` left behind; returns the bytes freed."""
    freed = 0
    for place in sorted((folder / "kept").glob("*")):
        if (descriptor := _lock(place)) is not None:
            freed += sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            shutil.rmtree(place, ignore_errors=True)
            os.close(descriptor)
    return freed


def free_disk_bytes(folder: Path) -> int:
    """Of the filesystem that `folder`, or its nearest parent that exists, is on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _lock(place: Path) -> int | None:
    """A descriptor that holds the folder's lock, or None if somebody else does."""
    try:
        descriptor = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None  # its own run is removing it just now
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
