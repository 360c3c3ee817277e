"""What this worker can hand to others: its pinned and disk tiers."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import BinaryIO

from quickthaw.snapshot import Loader, SnapshotStore, Tier
from quickthaw.snapshot.files import open_regular, read_bounded
from quickthaw.snapshot.manifest import MANIFEST_BYTES_MAX
from quickthaw.snapshot.remote import RemoteOrigin
from quickthaw.wire.errors import QuickthawError
from quickthaw.worker.peers import PIECE_BYTES


class WorkerShelf:
    """Thread-safe. Memory is held for one piece at a time, so that it can be had back meanwhile."""

    def __init__(self, store: SnapshotStore, loader: Loader, origin: RemoteOrigin) -> None:
        self._store = store
        self._loader = loader
        self._origin = origin

    def manifest(self, digest: str) -> bytes | None:
        if (arriving := self._origin.arriving(digest)) is not None and arriving.encoded:
            return arriving.encoded
        if digest in self._store:
            return read_bounded(self._store.manifest_path(digest), MANIFEST_BYTES_MAX)
        return None

    def file(self, kind: str, digest: str) -> BinaryIO | None:
        path = self._store.root / kind / (digest if kind == "blobs" else f"{digest}.safetensors")
        if not path.is_file():
            return None
        return os.fdopen(open_regular(path), "rb", buffering=0)

    def pinned(self, digest: str) -> tuple[bytes, int] | None:
        lines = self._loader.residency().get(digest)
        if lines is None or Tier.PINNED not in lines.tiers:
            return None
        path = self._store.component_path(digest)
        if path.is_file():
            return None  # the kernel sends files without us, and it knows which are in memory
        try:
            part = self._loader.component(digest)
            header = self._origin.header(part)
        except QuickthawError:
            return None
        return None if header is None else (header, part.data_bytes)

    def pieces(self, digest: str, start: int, end: int) -> Generator[memoryview, None, None]:
        while start < end:
            size = min(PIECE_BYTES, end - start)
            if (held := self._loader.pinned(digest)) is None:
                return
            try:
                yield held.view[start : start + size]
            finally:
                held.release()
            start += size
