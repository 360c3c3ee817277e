"""A component's layout, read from its file or from wherever else the component comes from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from quickthaw.snapshot.copiers import Origin
from quickthaw.snapshot.files import open_regular
from quickthaw.snapshot.format import Header, check_aligned, parse_header
from quickthaw.snapshot.hashes import BLOCK_BYTES, sha256_hex
from quickthaw.snapshot.manifest import Component
from quickthaw.wire.errors import SnapshotCorrupt


def read_component_header(
    path: Path, component: Component, origins: Sequence[Origin] = ()
) -> Header:
    """The checked layout of a component; raises `SnapshotCorrupt` if it was changed.

    From its file, or where that is not on this machine, from the first origin that has it.
    """
    raw = _raw_header(path, component, origins)
    where = f"component {component.name}"
    if sha256_hex(raw) != component.header_digest:
        raise corrupt(component, "the header differs from the manifest", block=None)
    header = parse_header(raw, component.data_bytes, where)
    check_aligned(header, where)
    return header


def _raw_header(path: Path, component: Component, origins: Sequence[Origin]) -> bytes:
    if not path.is_file():
        for origin in origins:
            if (raw := origin.header(component)) is not None:
                return raw
    with os.fdopen(open_regular(path), "rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        if file_bytes != component.file_bytes:
            what = f"its file is {file_bytes} bytes long, not {component.file_bytes}"
            raise corrupt(component, what, block=None)
        return file.read(component.data_start)


def corrupt(component: Component, what: str, *, block: int | None) -> SnapshotCorrupt:
    """Names the component and, unless the whole of it is meant, the block and its file offset."""
    place, metadata = "", {"component": component.name, "digest": component.digest}
    if block is not None:
        offset = component.data_start + block * BLOCK_BYTES
        place = f", block {block} (file offset {offset})"
        metadata |= {"block": str(block), "offset": str(offset)}
    return SnapshotCorrupt(
        f"component {component.name}{place}: {what}; fetch or pack component "
        f"{component.digest} again",
        metadata=metadata,
    )
