"""Writing into a store: components, blobs and, last of all, the manifest that makes them a model.

Order is what keeps a crash harmless: files appear whole under the hash of their content, nothing
refers to them until the manifest is renamed into place, and what no manifest refers to is removed
by the store's next `gc`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quickthaw.snapshot.claims import check_claims
from quickthaw.snapshot.files import (
    full_disk_named,
    make_folder,
    new_file,
    open_regular,
    publish,
    sync_directory,
)
from quickthaw.snapshot.format import (
    Problem,
    TensorSpec,
    encode_header,
    invalid,
    lay_out,
)
from quickthaw.snapshot.hashes import BlockHasher, sha256_hex
from quickthaw.snapshot.manifest import BLOB_BYTES_MAX, Blob, Manifest, StoredFile
from quickthaw.snapshot.manifest_json import encode_manifest, manifest_digest, parse_manifest
from quickthaw.snapshot.reader import StoreReader
from quickthaw.snapshot.verify import check_component
from quickthaw.wire.errors import SnapshotCorrupt

COPY_BYTES = 4 * 1024 * 1024


def is_intact(path: Path, digest: str, file_bytes: int) -> bool:
    """By its content, not by its name: bringing a snapshot in again is how a bad disk is mended."""
    if not path.exists() or path.stat().st_size != file_bytes:
        return False
    with open(open_regular(path), "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


@dataclass(frozen=True, slots=True)
class WrittenComponent:
    """What the manifest has to say about a file just written."""

    digest: str
    header_digest: str
    data_start: int
    data_bytes: int
    blocks: str


class TensorHasher:
    """Lays tensors out as a component file and hashes it while it is written, or only read."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.entries = lay_out(specs)
        self.header = encode_header(self.entries)
        self.header_digest = sha256_hex(self.header)
        self._whole = hashlib.sha256(self.header)
        self._blocks = BlockHasher()

    def pieces(self, contents: Iterable[memoryview]) -> Iterator[memoryview]:
        """The data section, piece by piece; `contents` yields each tensor's bytes in order."""
        remaining = iter(contents)
        for entry in self.entries:
            size = entry.end - entry.start
            piece = memoryview(bytes(size)) if entry.is_pad else next(remaining)
            if piece.nbytes != size:
                raise ValueError(f"{entry.name}: {piece.nbytes} bytes given, {size} declared")
            self._whole.update(piece)
            self._blocks.update(piece)
            yield piece

    def result(self) -> WrittenComponent:
        """To be asked once, after the last piece."""
        return WrittenComponent(
            self._whole.hexdigest(),
            self.header_digest,
            len(self.header),
            self.entries[-1].end if self.entries else 0,
            self._blocks.finish(),
        )


class StoreWriter:
    """Adds to the store at `root`; made by `SnapshotStore.writing`, which holds its lock."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / "tmp"
        self._components = root / "components"
        self._deltas = root / "deltas"
        self._blobs = root / "blobs"
        self._snapshots = root / "snapshots"
        with full_disk_named(root):
            for folder in (self._temporary, self._components, self._blobs, self._snapshots):
                make_folder(folder)

    def add_component(
        self,
        specs: Sequence[TensorSpec],
        contents: Iterable[memoryview],
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> WrittenComponent:
        """Writes one component file; `contents` yields the bytes of each tensor in `specs` order.

        `on_bytes` is told the size of each piece written.
        """
        return self._add_tensors(self._components, specs, contents, on_bytes)

    def add_delta(
        self, specs: Sequence[TensorSpec], contents: Iterable[memoryview]
    ) -> WrittenComponent:
        """The same for the tensors in which a component differs from its base."""
        return self._add_tensors(self._deltas, specs, contents, lambda _: None)

    def _add_tensors(
        self,
        folder: Path,
        specs: Sequence[TensorSpec],
        contents: Iterable[memoryview],
        on_bytes: Callable[[int], None],
    ) -> WrittenComponent:
        hasher = TensorHasher(specs)
        with new_file(self._temporary) as (file, path):
            file.write(hasher.header)
            for piece in hasher.pieces(contents):
                file.write(piece)
                on_bytes(piece.nbytes)
            written = hasher.result()
            self._publish(file, path, folder / f"{written.digest}.safetensors")
        return written

    def add_blob(self, content: bytes) -> Blob:
        if len(content) > BLOB_BYTES_MAX:
            invalid(Problem.MANIFEST, "blob", f"{len(content)} bytes is over {BLOB_BYTES_MAX}")
        digest = sha256_hex(content)
        with new_file(self._temporary) as (file, path):
            file.write(content)
            self._publish(file, path, self._blobs / digest)
        return Blob(digest, len(content))

    def copy_file(self, source: Path, file: StoredFile, *, fresh: bool = False) -> None:
        """Brings a file in; raises `SnapshotCorrupt` if its content does not hash to its digest.

        Unless it is to be `fresh`, one that is here already is read instead, and kept if intact.
        """
        target = self._root / file.path
        if fresh or not is_intact(target, file.digest, file.nbytes):
            self._copy(source, target, file.digest, file.nbytes)

    def _copy(self, source: Path, target: Path, digest: str, file_bytes: int) -> None:
        whole, copied = hashlib.sha256(), 0
        with (
            open(open_regular(source), "rb", buffering=0) as origin,
            new_file(self._temporary) as (file, path),
        ):
            while copied <= file_bytes and (piece := origin.read(COPY_BYTES)):
                file.write(piece)
                whole.update(piece)
                copied += len(piece)
            if copied != file_bytes or whole.hexdigest() != digest:
                raise SnapshotCorrupt(
                    f"{source}: the content does not match its name ({copied} of {file_bytes} "
                    "bytes read); fetch it again",
                    metadata={"path": str(source), "digest": digest},
                )
            self._publish(file, path, target)

    def _publish(self, file: BinaryIO, path: Path, target: Path) -> None:
        with full_disk_named(target.parent):
            publish(file, path, target)

    def add_manifest(self, manifest: Manifest) -> str:
        """Makes the snapshot exist and returns its digest. Its parts must be there already."""
        encoded = encode_manifest(manifest)
        parse_manifest(encoded, "the new manifest")  # never write what could not be read back
        return self._add(encoded)

    def add_encoded_manifest(self, encoded: bytes) -> str:
        """The same for a stranger's manifest; its bytes, and digest, are kept.

        What it says of components is held against their files, which must be there already.
        """
        for part in parse_manifest(encoded, "the new manifest").components:
            if (path := self._components / f"{part.digest}.safetensors").exists():
                check_claims(path, part)
            else:
                check_component(StoreReader(self._root), part)
        return self._add(encoded)

    def _add(self, encoded: bytes) -> str:
        digest = manifest_digest(encoded)
        target = self._snapshots / digest / "manifest.json"
        with new_file(self._temporary) as (file, path):
            file.write(encoded)
            self._publish(file, path, target)
            sync_directory(self._snapshots)
        return digest
