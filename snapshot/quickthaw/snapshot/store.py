"""A folder of snapshots that share their components (FORMAT.md §1).

    ROOT/snapshots/<digest>/manifest.json     one folder per snapshot
    ROOT/components/<sha256>.safetensors      weights, shared by content
    ROOT/deltas/<sha256>.safetensors          the tensors in which one component differs
    ROOT/blobs/<sha256>                       tokenizer files, shared by content
    ROOT/tmp/, ROOT/.lock                     only while something is written

A snapshot on its own, to be copied or committed, is simply a store that holds one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quickthaw.snapshot.files import (
    full_disk_named,
    make_folder,
    read_bounded,
    refuse_link,
    sync_directory,
)
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.hashes import is_digest
from quickthaw.snapshot.manifest import MANIFEST_BYTES_MAX, Blob, Component, Manifest
from quickthaw.snapshot.manifest_json import manifest_digest, parse_manifest
from quickthaw.snapshot.writer import StoreWriter
from quickthaw.wire.errors import FailedPrecondition, NotFound, SnapshotCorrupt


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An opened snapshot: its manifest is parsed and matches its digest; weights are unread."""

    digest: str
    manifest: Manifest
    store: SnapshotStore


@dataclass(frozen=True, slots=True)
class Collected:
    """What `gc` removed."""

    files: int
    bytes: int


class SnapshotStore:
    """The snapshots under `root`, which need not exist before something is written to it.

    Safe for several processes: additions are atomic, and `gc` refuses to run beside one.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"SnapshotStore({str(self.root)!r})"

    def __iter__(self) -> Iterator[str]:
        """Digests of the complete snapshots, sorted."""
        folder = self.root / "snapshots"
        if not folder.is_dir():
            return
        for name in sorted(entry.name for entry in folder.iterdir()):
            if is_digest(name) and (folder / name / "manifest.json").is_file():
                yield name

    def __contains__(self, digest: str) -> bool:
        return is_digest(digest) and self.manifest_path(digest).is_file()

    def manifest_path(self, digest: str) -> Path:
        return self.root / "snapshots" / _checked(digest) / "manifest.json"

    def component_path(self, digest: str) -> Path:
        return self.root / "components" / f"{_checked(digest)}.safetensors"

    def delta_path(self, digest: str) -> Path:
        return self.root / "deltas" / f"{_checked(digest)}.safetensors"

    def holds(self, part: Component) -> bool:
        """Whether a component's bytes can be had from this store's files."""
        if part.delta is None or self.component_path(part.digest).is_file():
            return self.component_path(part.digest).is_file()
        chain = reversed(list(zip(part.delta.layers, part.delta.stages, strict=False)))
        for layer, below in chain:
            if not self.delta_path(layer.digest).is_file():
                return False
            if self.component_path(below).is_file():
                return True
        return False

    def blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / _checked(digest)

    def open(self, digest: str) -> Snapshot:
        """Raises `NotFound`, `SnapshotInvalid`, or `SnapshotCorrupt` for a changed manifest."""
        if digest not in self:
            raise NotFound(f"{self.root} holds no snapshot {digest[:80]!r}")
        for folder in ("snapshots", f"snapshots/{digest}", "components", "deltas", "blobs"):
            refuse_link(self.root / folder)
        path = self.manifest_path(digest)
        encoded = read_bounded(path, MANIFEST_BYTES_MAX)
        if manifest_digest(encoded) != digest:
            raise SnapshotCorrupt(
                f"{path}: the manifest was changed after packing; fetch or pack it again",
                metadata={"path": str(path), "digest": digest},
            )
        return Snapshot(digest, parse_manifest(encoded, str(path)), self)

    def only(self) -> str:
        """The digest of a store that holds a single snapshot."""
        digests = list(self)
        if len(digests) != 1:
            if not digests:
                raise NotFound(
                    f"{self.root} holds no snapshot; `quickthaw snapshot pack` makes one"
                )
            raise NotFound(f"{self.root} holds {len(digests)} snapshots; name one by its digest")
        return digests[0]

    def read_blob(self, blob: Blob) -> bytes:
        """The blob's content, checked against its digest."""
        path = self.blob_path(blob.digest)
        content = read_bounded(path, blob.bytes)
        if manifest_digest(content) != blob.digest:
            raise SnapshotCorrupt(
                f"{path}: the content does not match its name; fetch or pack it again",
                metadata={"path": str(path), "digest": blob.digest},
            )
        return content

    @contextmanager
    def writing(self) -> Iterator[StoreWriter]:
        """Adds to the store, beside other writers but never beside `gc`."""
        with self._lock(fcntl.LOCK_SH):
            yield StoreWriter(self.root)

    def import_(self, folder: Path | str, digest: str | None = None) -> tuple[str, ...]:
        """Copies the snapshots of another store in, or that of `digest`; returns their digests.

        All content is checked against its SHA-256 on the way. Parts that are here already are read
        and kept if they are intact, else replaced.
        """
        source = SnapshotStore(folder)
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
    def _lock(self, kind: int) -> Iterator[None]:
        with full_disk_named(self.root):
            make_folder(self.root)
            descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FailedPrecondition(
                    f"{self.root} is being written or cleaned by another process; "
                    "repeat when it is done"
                ) from error
            yield
        finally:
            os.close(descriptor)


def _checked(digest: str) -> str:
    """Digests become file names; nothing else may."""
    if not is_digest(digest):
        invalid(Problem.UNSAFE, "digest", f"{digest!r:.80} is not a SHA-256 in lower-case hex")
    return digest
