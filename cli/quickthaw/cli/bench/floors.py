"""What this machine can do at best: the same bytes, moved and nothing else.

Reads go into huge pages that were touched before. How many at once and how large is tried out when
the floors are opened, and the fastest is the floor: it must not be one that our own loads happen to
suit. The copy to the device is a plain memcpy on a CPU, and a copy from torch's own pinned memory
on a GPU. A window of memory is used over and over, larger than any cache, so that a floor needs
little beside it.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quickthaw.cli.bench.loopback import STORE, download
from quickthaw.snapshot.memory import Memory

PIECE_BYTES = 16 << 20
GPU_PIECE_BYTES = 256 << 20
WINDOW_BYTES = 1 << 30
TRIES = 2


class _Piece(NamedTuple):
    number: int
    descriptor: int
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Depth:
    """So many direct reads at once, and how long each is."""

    threads: int
    piece_bytes: int

    @property
    def words(self) -> str:
        return f"{self.threads} threads of {self.piece_bytes >> 20} MiB"


DEPTHS = tuple(
    Depth(threads, mib << 20) for threads, mib in ((8, 16), (16, 16), (24, 16), (16, 8), (24, 4))
)


class Floors:
    """Reads `paths`, and copies as many bytes from host memory to the device.

    `readers`: threads of what is neither the disk's floor nor a copy in memory.
    """

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
        self._deep = ThreadPoolExecutor(max(depth.threads for depth in DEPTHS))
        self.depth = self._fastest(DEPTHS)
        """How the disk is read."""
        self.to_device = self._to_gpu() if device == "cuda" else self._to_memory()

    def direct(self) -> None:
        """Past the page cache, by `O_DIRECT`."""
        self._read_direct(self.depth, self._total)

    def page_cache(self) -> None:
        with self._opened(0) as files:
            list(self._copiers.map(self._reader(PIECE_BYTES), self._pieces(files, PIECE_BYTES)))

    def _fastest(self, depths: Sequence[Depth]) -> Depth:
        """By the better of its tries, which take turns, over at most a window of the files."""
        best = dict.fromkeys(depths, math.inf)
        for _ in range(TRIES):
            for depth in depths:
                began = time.perf_counter()
                self._read_direct(depth, WINDOW_BYTES)
                best[depth] = min(best[depth], time.perf_counter() - began)
        return min(depths, key=lambda depth: best[depth])

    def _read_direct(self, depth: Depth, nbytes: int) -> None:
        with self._opened(os.O_DIRECT) as files:
            pieces = self._pieces(files, depth.piece_bytes)[: -(-nbytes // depth.piece_bytes)]
            waiting, read = iter(pieces), self._reader(depth.piece_bytes)

            def work() -> None:
                # Each takes the next piece: more at once than there are threads would be deeper.
                for piece in waiting:
                    read(piece)

            done, _ = wait([self._deep.submit(work) for _ in range(depth.threads)])
            for each in done:
                each.result()

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

    @contextmanager
    def _opened(self, flags: int) -> Iterator[list[int]]:
        descriptors = [os.open(path, os.O_RDONLY | flags) for path, _ in self._files]
        try:
            yield descriptors
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _pieces(self, descriptors: Sequence[int], nbytes: int) -> list[_Piece]:
        found = [
            (descriptor, start, min(nbytes, size - start))
            for descriptor, (_, size) in zip(descriptors, self._files, strict=True)
            for start in range(0, size, nbytes)
        ]
        return [_Piece(number, *each) for number, each in enumerate(found)]

    def _reader(self, nbytes: int) -> Callable[[_Piece], None]:
        """Reads pieces of at most so many bytes, each to its place in the window."""
        window = self._memory.nbytes // nbytes

        def read(piece: _Piece) -> None:
            # Past the end a direct read stops by itself; its buffer has to be whole blocks.
            place = piece.number % window * nbytes
            view = self._memory.view[place : place + nbytes]
            if os.preadv(piece.descriptor, [view], piece.start) < piece.nbytes:
                raise OSError("a read came back short; this floor would be too good")

        return read

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
