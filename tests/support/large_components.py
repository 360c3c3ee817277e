"""Components of several blocks, and a source for them that can be watched and held up."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from quickthaw.snapshot import Component, Kind, Tier
from quickthaw.snapshot.hashes import BLOCK_BYTES, block_hash


def a_component(data_bytes: int, seed: int = 5) -> tuple[Component, bytes]:
    """A component of random bytes that is in no file."""
    content = random.Random(seed).randbytes(data_bytes)
    view = memoryview(content)
    blocks = [
        block_hash(view[start : start + BLOCK_BYTES]) for start in range(0, data_bytes, BLOCK_BYTES)
    ]
    component = Component(
        name="unet",
        kind=Kind.DENOISER,
        class_path="diffusers.UNet2DConditionModel",
        config={},
        attention=None,
        dtypes=("U8",),
        digest=f"{seed:064x}",
        header_digest="0" * 64,
        data_start=4096,
        data_bytes=data_bytes,
        blocks="".join(blocks),
        aliases={},
    )
    return component, content


class MemorySource:
    """Delivers `content`, which a test may damage."""

    name = "memory"
    why = "a test wants it"
    tier = Tier.DISK

    def __init__(self, content: bytes, span_bytes: int, readers: int) -> None:
        self.content = bytearray(content)
        self.span_bytes = span_bytes
        self.readers = readers
        self.most_at_once = 0
        self.before_first: Callable[[], object] = lambda: None
        self.before_any: Callable[[], object] = lambda: None
        self.before_last: Callable[[], object] = lambda: None
        self._nbytes = len(content)
        self._reading = 0
        self._lock = threading.Lock()

    def read_into(self, start: int, target: memoryview, nbytes: int) -> int:
        with self._lock:
            self._reading += 1
            self.most_at_once = max(self.most_at_once, self._reading)
        self.before_any()
        if start == 0:
            self.before_first()
        if start + nbytes == self._nbytes:
            self.before_last()
        found = self.content[start : start + nbytes]
        target[: len(found)] = found
        with self._lock:
            self._reading -= 1
        return len(found)

    def close(self) -> None:
        """Nothing to close."""
