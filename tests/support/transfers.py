"""One component, read from its file by a transfer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quickthaw.snapshot import Component
from quickthaw.snapshot.copiers import open_file
from quickthaw.snapshot.device import DeviceBuffer
from quickthaw.snapshot.slab import SlabRange
from quickthaw.snapshot.transfer import Transfer, Transferred


def fill(
    transfer: Transfer,
    component: Component,
    path: Path,
    room: SlabRange | None,
    buffer: DeviceBuffer | None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Transferred:
    """Checks everything; returns when all has arrived."""
    source = open_file(path, component.data_start, component.file_bytes)
    try:
        return transfer.from_source(component, source, room, buffer, verify=True, on_bytes=on_bytes)
    finally:
        source.close()
