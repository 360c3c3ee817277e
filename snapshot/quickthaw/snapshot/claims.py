"""What a manifest says of a component, held against the component's file and other manifests.

A file's SHA-256 proves its content, not what a manifest says about it beside: a stranger's manifest
may name another model's file rightly and lie about its size or its blocks.
"""

from __future__ import annotations

import os
from pathlib import Path

from quickthaw.snapshot.files import open_regular
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.hashes import BLOCK_BYTES, block_hash
from quickthaw.snapshot.headers import corrupt, read_component_header
from quickthaw.snapshot.manifest import Component


def check_claims(path: Path, component: Component) -> None:
    """Raises `SnapshotInvalid` or `SnapshotCorrupt` unless the file is as the manifest says.

    For a file whose SHA-256 is right already: layout, header digest and every block's hash. What
    has passed this and comes into a store can be loaded, as far as its bytes go.
    """
    read_component_header(path, component)
    with os.fdopen(open_regular(path), "rb") as file:
        file.seek(component.data_start)
        for block in range(component.block_count):
            content = file.read(min(BLOCK_BYTES, component.data_bytes - block * BLOCK_BYTES))
            if block_hash(content) != component.block_hash(block):
                raise corrupt(component, "bytes differ from the manifest", block=block)


def check_agreement(one: Component, other: Component) -> None:
    """Raises `SnapshotInvalid` if two manifests say different things about one component's bytes.

    They share the memory that it is loaded into, so the one that lies would spoil the other.
    """
    if _bytes_of(one) != _bytes_of(other):
        invalid(
            Problem.MANIFEST,
            f"component {other.name}",
            f"another snapshot of this store says something else about {one.digest}; `verify` "
            "tells which of the two is wrong, remove that one",
        )


def _bytes_of(component: Component) -> tuple[str, int, int, str]:
    return (
        component.header_digest,
        component.data_start,
        component.data_bytes,
        component.blocks,
    )
