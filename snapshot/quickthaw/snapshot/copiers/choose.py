"""Choosing where a component's bytes come from, by what is true now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from quickthaw.snapshot.copiers.base import OpenComponent, Origin, Source
from quickthaw.snapshot.copiers.cached import cached_fraction
from quickthaw.snapshot.copiers.direct import DirectSource
from quickthaw.snapshot.copiers.page_cache import PageCacheSource
from quickthaw.snapshot.files import open_regular
from quickthaw.snapshot.manifest import Component

SMALL_BYTES = 1024 * 1024
"""Below this the choice costs more than it can gain."""
CACHED_FRACTION = 0.5


def open_source(
    path: Path, component: Component, origins: Sequence[Origin], others: OpenComponent
) -> Source:
    """The component's file if it is on this machine, else the first origin that has it.

    Raises `SnapshotInvalid` if nobody has it, and what an origin raises.
    """
    if not path.is_file():
        for origin in origins:
            if (source := origin.open(component, others)) is not None:
                return source
    return open_file(path, component.data_start, component.file_bytes)


def open_file(path: Path, data_start: int, file_bytes: int) -> Source:
    """The best way to read a file now. What cannot be found out means the page cache."""
    descriptor = open_regular(path)
    try:
        if file_bytes <= SMALL_BYTES:
            return PageCacheSource(descriptor, data_start, "the file is small")
        cached = cached_fraction(descriptor, file_bytes, sampled=True)
        if cached >= CACHED_FRACTION:
            return PageCacheSource(descriptor, data_start, f"{cached:.0%} is in the page cache")
        try:
            uncached = open_regular(path, flags=os.O_DIRECT)
        except OSError:  # tmpfs and some network filesystems
            return PageCacheSource(descriptor, data_start, "the filesystem has no direct reads")
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return DirectSource(uncached, data_start, f"{cached:.0%} is in the page cache")
