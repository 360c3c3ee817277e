"""Snapshots of many blocks that no pipeline could run: for moving bytes, quickly made."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.format import TensorSpec
from quickthaw.snapshot.manifest import Manifest

TEMPLATE = Path(__file__).parents[2] / "models" / "shapes" / "snapshot"
MIB = 1 << 20


def a_large_snapshot(root: Path, *sizes: int, seed: int = 0) -> str:
    """Puts one with components of these sizes in bytes into the store at `root`; its digest."""
    template = SnapshotStore(TEMPLATE)
    manifest = template.open(template.only()).manifest
    store = SnapshotStore(root)
    chance = random.Random(seed)
    with store.writing() as writer:
        parts = []
        for index, size in enumerate(sizes):
            spec = TensorSpec("weight", "U8", (size,))
            written = writer.add_component([spec], [memoryview(chance.randbytes(size))])
            parts.append(
                dataclasses.replace(
                    manifest.components[index],
                    dtypes=("U8",),
                    aliases={},
                    **dataclasses.asdict(written),
                )
            )
        for processor in manifest.processors:
            for blob in processor.files.values():
                writer.add_blob(template.read_blob(blob))
        return writer.add_manifest(dataclasses.replace(manifest, components=tuple(parts)))


def files_of(root: Path) -> dict[str, bytes]:
    """Everything in a store that belongs to snapshots, by path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("snapshots", "components", "deltas", "blobs")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


def manifest_of(root: Path, digest: str) -> Manifest:
    return SnapshotStore(root).open(digest).manifest
