"""Reading a folder of snapshots that share their components (FORMAT.md §1).

    ROOT/snapshots/<digest>/manifest.json     one folder per snapshot
    ROOT/components/<sha256>.safetensors      weights, shared by content
    ROOT/deltas/<sha256>.safetensors          the tensors in which one component differs
    ROOT/blobs/<sha256>                       tokenizer files, shared by content
    ROOT/tmp/, ROOT/.lock                     only while something is written

A snapshot on its own, to be copied or committed, is simply a store that holds one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quickthaw.snapshot.files import read_bounded, refuse_link
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.hashes import is_digest
from quickthaw.snapshot.manifest import MANIFEST_BYTES_MAX, Blob, Component, Manifest
from quickthaw.snapshot.manifest_json import manifest_digest, parse_manifest
from quickthaw.wire.errors import NotFound, SnapshotCorrupt


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An opened snapshot: its manifest is parsed and matches its digest; weights are unread."""

    digest: str
    manifest: Manifest
    store: StoreReader


class StoreReader:
    """The snapshots under `root`, which need not exist. What changes them is `store.SnapshotStore`.

    Safe beside writers: what is added appears whole.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

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
            raise NotFound(
                f"{self.root} holds {len(digests)} snapshots; name one by its digest, "
                f"`quickthaw snapshot list {self.root}` lists them"
            )
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


def _checked(digest: str) -> str:
    """Digests become file names; nothing else may."""
    if not is_digest(digest):
        invalid(Problem.UNSAFE, "digest", f"{digest!r:.80} is not a SHA-256 in lower-case hex")
    return digest
