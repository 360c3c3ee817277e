"""Reading past the page cache: right for cold files, whose bytes then exist once, in the slab."""

from __future__ import annotations

import os

from quickthaw.snapshot.copiers.base import PAGE_BYTES
from quickthaw.snapshot.tiers import Tier


class DirectSource:
    """Owns `descriptor`, which was opened with O_DIRECT; the data begins at `data_start`."""

    name = "direct"
    tier = Tier.DISK
    span_bytes = 16 * 1024 * 1024
    readers = 16
    """As much under way as keeps a disk busy while some readers hash. Fewer and larger spans cost
    less of the processor; near the end of a load they get shorter by themselves (`spans.py`)."""

    def __init__(self, descriptor: int, data_start: int, why: str) -> None:
        self.why = why
        self._descriptor = descriptor
        self._data_start = data_start

    def read_into(self, start: int, target: memoryview, nbytes: int) -> int:
        wanted = -(-nbytes // PAGE_BYTES) * PAGE_BYTES
        offset = self._data_start + start
        done = 0
        while done < nbytes:
            count = os.preadv(self._descriptor, [target[done:wanted]], offset + done)
            done += count
            if count == 0 or count % PAGE_BYTES:
                break  # only the end of the file comes in less than whole pages
        return min(done, nbytes)

    def close(self) -> None:
        os.close(self._descriptor)
