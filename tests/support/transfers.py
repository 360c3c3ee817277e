"""One component, moved by a transfer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from quickthaw.snapshot import Component
from quickthaw.snapshot.copiers import Source, open_file
from quickthaw.snapshot.device import DeviceBuffer
from quickthaw.snapshot.host_range import HostRange
from quickthaw.snapshot.transfer import Move, Transfer, Transferred


def fill(
    transfer: Transfer,
    component: Component,
    path: Path,
    room: HostRange | None,
    buffer: DeviceBuffer | None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Transferred:
    """From its file. Checks everything; returns when all has arrived."""
    with closing(open_file(path, component.data_start, component.file_bytes)) as source:
        return fill_from(transfer, component, source, room, buffer, on_bytes)


def fill_from(
    transfer: Transfer,
    component: Component,
    source: Source | None,
    room: HostRange | None,
    buffer: DeviceBuffer | None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Transferred:
    """Without a source, what is in `room` is checked where it is."""
    move = Move(component, source, room, buffer, True, on_bytes)
    with transfer.moving([move]) as job:
        return job.finish(move)


def send(
    transfer: Transfer,
    component: Component,
    room: HostRange,
    buffer: DeviceBuffer,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Transferred:
    """What is in `room` and was checked before, to the device."""
    move = Move(component, None, room, buffer, False, on_bytes)
    with transfer.moving([move]) as job:
        return job.finish(move)
