"""What this machine can do at best: the same bytes, moved and nothing else.

Reads go into huge pages that were touched before, by as many threads as our own loads; the copy to
the device is a plain memcpy on a CPU, and a copy from torch's own pinned memory on a GPU. A window
of memory is used over and over, larger than any cache, so that a floor needs little beside it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quickthaw.cli.bench.loopback import STORE, download
from quickthaw.snapshot.memory import Memory

PIECE_BYTES = 16 << 20
GPU_PIECE_BYTES = 256 << 20
WINDOW_BYTES = 1 << 30


class Floors:
    """Reads `paths`, and copies as many bytes from host memory to the device."""

    def __init__(self, paths: Sequence[Path], device: str, readers: int, url: str) -> None:
        self._url = url
        self._files = [(path, path.stat().st_size) for path in paths]
        self._total = sum(size for _, size in self._files)
        pieces = max(-(-min(self._total, WINDOW_BYTES) // PIECE_BYTES), 1)
        self._memory = Memory(pieces * PIECE_BYTES)
        self._memory.touch(readers)
        cores = len(os.sched_getaffinity(0))
        self._readers = ThreadPoolExecutor(readers)
        # Copying in memory keeps a core busy; more threads than cores would only queue.
        self._copiers = ThreadPoolExecutor(cores)
        self.to_device = self._to_gpu() if device == "cuda" else self._to_memory()

    def direct(self) -> None:
        """Past the page cache, by `O_DIRECT`."""
        self._read(os.O_DIRECT, self._readers)

    def page_cache(self) -> None:
        self._read(0, self._copiers)

    def remote(self) -> None:
        """Over HTTP, in ranges, by plain sockets."""

        def fetch(piece: tuple[int, str, int, int]) -> None:
            number, path, start, size = piece
            place = number % (self._memory.nbytes // PIECE_BYTES) * PIECE_BYTES
            download(self._url, path, start, self._memory.view[place : place + size])

        pieces = [
            (f"/{STORE}/components/{path.name}", start, min(PIECE_BYTES, size - start))
            for path, size in self._files
            for start in range(0, size, PIECE_BYTES)
        ]
        list(self._readers.map(fetch, [(number, *piece) for number, piece in enumerate(pieces)]))

    def _read(self, flags: int, threads: ThreadPoolExecutor) -> None:
        opened = [os.open(path, os.O_RDONLY | flags) for path, _ in self._files]
        window = self._memory.nbytes // PIECE_BYTES

        def read(piece: tuple[int, int, int, int]) -> None:
            number, descriptor, start, size = piece
            # Past the end a direct read stops by itself; its buffer has to be whole blocks.
            place = number % window * PIECE_BYTES
            view = self._memory.view[place : place + PIECE_BYTES]
            if os.preadv(descriptor, [view], start) < size:
                raise OSError("a read came back short; this floor would be too good")

        pieces = [
            (descriptor, start, min(PIECE_BYTES, size - start))
            for descriptor, (_, size) in zip(opened, self._files, strict=True)
            for start in range(0, size, PIECE_BYTES)
        ]
        try:
            list(threads.map(read, [(number, *piece) for number, piece in enumerate(pieces)]))
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _to_memory(self) -> Callable[[], None]:
        target = Memory(self._memory.nbytes)
        target.touch(2)
        window = self._memory.nbytes

        def copy(start: int) -> None:
            place = start % window
            size = min(PIECE_BYTES, self._total - start)
            ctypes.memmove(target.address + place, self._memory.address + place, size)

        def copy_all() -> None:
            list(self._copiers.map(copy, range(0, self._total, PIECE_BYTES)))

        return copy_all

    def _to_gpu(self) -> Callable[[], None]:
        import torch

        window = min(self._memory.nbytes, self._total)
        # torch's own pinned memory: nothing of ours is in this number.
        pinned = torch.empty(window, dtype=torch.uint8, pin_memory=True)
        gpu = torch.empty(window, dtype=torch.uint8, device="cuda")

        def copy() -> None:
            done = 0
            while done < self._total:
                place = done % window
                size = min(GPU_PIECE_BYTES, self._total - done, window - place)
                end = place + size
                gpu[place:end].copy_(pinned[place:end], non_blocking=True)
                done += size
            torch.cuda.synchronize()

        return copy
