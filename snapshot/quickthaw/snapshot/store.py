"""Changing a store: additions, copies of other stores, removal, and what nobody needs any more."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quickthaw.snapshot.files import (
    full_disk_named,
    make_folder,
    read_bounded,
    sync_directory,
)
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.manifest import MANIFEST_BYTES_MAX
from quickthaw.snapshot.reader import Snapshot, StoreReader
from quickthaw.snapshot.writer import StoreWriter
from quickthaw.wire.errors import FailedPrecondition, NotFound

GC_SECONDS_MAX = 10.0
"""For which a writer waits."""
LOOK_SECONDS = 0.05
"""Between two looks at who has the lock: the kernel's own waiting has no end."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What `gc` removed."""

    files: int
    bytes: int


class SnapshotStore(StoreReader):
    """The snapshots under `root`, which need not exist before something is written to it.

    Safe for several processes: additions are atomic, and `gc` refuses to run beside one.
    """

    @contextmanager
    def writing(self) -> Iterator[StoreWriter]:
        """Adds to the store, beside other writers but never beside `gc`, whose end is waited for:
        it takes moments, and what is to be added may have taken hours."""
        with self._lock(fcntl.LOCK_SH, GC_SECONDS_MAX):
            yield StoreWriter(self.root)

    def import_(self, folder: Path | str, digest: str | None = None) -> tuple[str, ...]:
        """Copies the snapshots of another store in, or that of `digest`; returns their digests.

        All content is checked against its SHA-256 on the way. Parts that are here already are read
        and kept if they are intact, else replaced.
        """
        source = StoreReader(folder)
        digests = tuple(source) if digest is None else (digest,)
        if not digests:
            invalid(Problem.MISSING, str(folder), "holds no snapshot; wanted snapshots/<digest>/")
        with self.writing() as writer:
            for digest in digests:
                manifest = source.open(digest).manifest
                for file in manifest.files():
                    writer.copy_file(source.root / file.path, file)
                writer.add_encoded_manifest(
                    read_bounded(source.manifest_path(digest), MANIFEST_BYTES_MAX)
                )
        return digests

    def adopt(self, folder: Path | str, digest: str, base: Snapshot | None) -> Snapshot:
        """Copies a snapshot in that somebody who is not trusted has packed into a store of theirs,
        over `base`, a snapshot of ours.

        Every file is either base's or there, and is checked against its SHA-256 on the way: whoever
        only knows the digest of a file in this store gets nothing of it. Raises `SnapshotInvalid`,
        `SnapshotCorrupt`, `StorageFull`.
        """
        source = StoreReader(folder)
        manifest = source.open(digest).manifest
        shared = () if base is None else base.manifest.files()
        with self.writing() as writer:
            for file in manifest.files():
                if file not in shared:
                    writer.copy_file(source.root / file.path, file, fresh=True)
            writer.add_encoded_manifest(
                read_bounded(source.manifest_path(digest), MANIFEST_BYTES_MAX)
            )
        return self.open(digest)

    def remove(self, digest: str) -> None:
        """Forgets a snapshot; its files go with the next `gc` if no other snapshot shares them."""
        if digest not in self:
            raise NotFound(f"{self.root} holds no snapshot {digest[:80]!r}")
        with self._lock(fcntl.LOCK_EX):
            folder = self.manifest_path(digest).parent
            shutil.rmtree(folder)
            sync_directory(folder.parent)

    def gc(self) -> Collected:
        """Removes what no snapshot refers to, also what a crashed writer left behind."""
        with self._lock(fcntl.LOCK_EX):
            manifests = [self.open(digest).manifest for digest in self]
            wanted = {self.root / file.path for each in manifests for file in each.files()}
            if (snapshots := self.root / "snapshots").is_dir():
                # A manifest must not come back after a power cut without its files.
                sync_directory(snapshots)
            files = freed_bytes = 0
            for folder in ("components", "deltas", "blobs", "tmp"):
                for path in (self.root / folder).glob("*"):
                    if path not in wanted:
                        files, freed_bytes = files + 1, freed_bytes + path.lstat().st_size
                        path.unlink()
            for path in (self.root / "snapshots").glob("*"):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()  # a writer died between making the folder and its manifest
            return Collected(files, freed_bytes)

    @contextmanager
    def _lock(self, kind: int, wait_seconds: float = 0.0) -> Iterator[None]:
        with full_disk_named(self.root):
            make_folder(self.root)
            descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            give_up = time.monotonic() + wait_seconds
            while not _locked(descriptor, kind):
                if time.monotonic() >= give_up:
                    raise FailedPrecondition(
                        f"{self.root} is being written or cleaned by another process; "
                        "repeat when it is done"
                    )
                time.sleep(LOOK_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
