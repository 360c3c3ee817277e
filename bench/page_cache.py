"""Files that are in the page cache, or are not: made so, and looked at."""

from __future__ import annotations

import os
from pathlib import Path

from quickthaw.snapshot.copiers import cached_fraction

COLD_FRACTION_MAX = 0.01


class Files:
    """The files that hold the weights, and whether the page cache has them."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        for path in paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())  # only clean pages can be dropped

    def drop(self) -> None:
        for path in self.paths:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                left = cached_fraction(descriptor, path.stat().st_size)
            finally:
                os.close(descriptor)
            if left > COLD_FRACTION_MAX:
                raise SystemExit(f"{path}: {left:.0%} stays in the page cache; cold is not cold")

    def warm(self) -> None:
        block = bytearray(16 << 20)
        for path in self.paths:
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass
