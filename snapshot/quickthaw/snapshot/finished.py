"""What an interrupted pack had finished: the next one of the same source goes on behind it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quickthaw.snapshot.files import new_file, publish, read_bounded
from quickthaw.snapshot.manifest import MANIFEST_BYTES_MAX, Delta, DeltaLayer
from quickthaw.snapshot.store import SnapshotStore
from quickthaw.snapshot.writer import WrittenComponent, is_intact
from quickthaw.wire.errors import QuickthawError


class Finished:
    """The components in `store` that packs before have written, remembered in the file `path`.

    Whoever packs again names the same file for the same source, base and settings only. What is
    remembered counts for as much as its file: one that is missing or damaged is written anew.
    """

    def __init__(self, store: SnapshotStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._lines: dict[str, Any] = {}
        if path.is_file():
            try:
                found = json.loads(read_bounded(path, MANIFEST_BYTES_MAX))
                self._lines = found if isinstance(found, dict) else {}
            except (ValueError, QuickthawError):
                pass  # then nothing was finished

    def find(self, name: str, header_digest: str) -> tuple[WrittenComponent, Delta | None] | None:
        """The component, if it was written with that layout and its file is what it was."""
        try:
            line = self._lines[name]
            written = WrittenComponent(**line["written"])
            delta = None if line["delta"] is None else _delta(line["delta"])
        except (KeyError, TypeError):
            return None
        if written.header_digest != header_digest or not self._is_there(written, delta):
            return None
        return written, delta

    def _is_there(self, written: WrittenComponent, delta: Delta | None) -> bool:
        try:
            if delta is None:
                path, digest = self._store.component_path(written.digest), written.digest
                file_bytes = written.data_start + written.data_bytes
            else:
                # Those below it are the base's.
                layer = delta.layers[-1]
                path, digest = self._store.delta_path(layer.digest), layer.digest
                file_bytes = layer.file_bytes
            return is_intact(path, digest, file_bytes)
        except (QuickthawError, TypeError, IndexError):
            return False

    def note(self, name: str, written: WrittenComponent, delta: Delta | None) -> None:
        """Durable when this returns. Raises StorageFull."""
        self._lines[name] = {
            "written": asdict(written),
            "delta": None if delta is None else asdict(delta),
        }
        with new_file(self._path.parent) as (file, path):
            file.write(json.dumps(self._lines).encode())
            publish(file, path, self._path)


def _delta(value: dict[str, Any]) -> Delta:
    return Delta(value["base"], tuple(DeltaLayer(**layer) for layer in value["layers"]))
