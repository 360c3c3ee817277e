"""What this machine can do at best: the same bytes, moved and nothing else.

Reads, from the disk and over HTTP, go into huge pages that were touched before. How many at once
and how large is tried out when the floors are opened, and the fastest is the floor: it must not be
one that our own loads happen to suit. The copy to the device is a plain memcpy on a CPU, and a copy
from torch's own pinned memory on a GPU. A window of memory is used over and over, larger than any
cache, so that a floor needs little beside it.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quickthaw.cli.bench.loopback import STORE, RangeReader
from quickthaw.snapshot.memory import Memory

PIECE_BYTES = 16 << 20
GPU_PIECE_BYTES = 256 << 20
WINDOW_BYTES = 1 << 30
TRIES = 2


class _Piece(NamedTuple):
    """`file`: its place among the files."""

    number: int
    file: int
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Depth:
    """So many reads at once, and how long each is."""

    threads: int
    piece_bytes: int

    @property
    def words(self) -> str:
        return f"{self.threads} threads of {self.piece_bytes >> 20} MiB"


def _depths(*pairs: tuple[int, int]) -> tuple[Depth, ...]:
    return tuple(Depth(threads, mib << 20) for threads, mib in pairs)


DISK_DEPTHS = _depths((8, 16), (16, 16), (24, 16), (16, 8), (24, 4))
HTTP_DEPTHS = _depths((2, 16), (4, 16), (8, 16), (16, 16), (8, 4))


class Floors:
    """Reads `paths`, and copies as many bytes from host memory to the device.

    `url`: of a web server that has them as well, or empty.
    """

    def __init__(self, paths: Sequence[Path], device: str, url: str) -> None:
        self._url = url
        self._files = [(path, path.stat().st_size) for path in paths]
        self._total = sum(size for _, size in self._files)
        pieces = max(-(-min(self._total, WINDOW_BYTES) // PIECE_BYTES), 1)
        cores = len(os.sched_getaffinity(0))
        self._memory = Memory(pieces * PIECE_BYTES)
        self._memory.touch(cores)
        # Copying in memory keeps a core busy; more threads than cores would only queue.
        self._copiers = ThreadPoolExecutor(cores)
        self._readers = ThreadPoolExecutor(max(each.threads for each in DISK_DEPTHS + HTTP_DEPTHS))
        self.disk_depth = _fastest(self._read_direct, DISK_DEPTHS)
        self.http_depth = _fastest(self._read_http, HTTP_DEPTHS) if url else None
        self.to_device = self._to_gpu() if device == "cuda" else self._to_memory()

    def direct(self) -> None:
        """Past the page cache, by `O_DIRECT`."""
        self._read_direct(self.disk_depth, self._total)

    def page_cache(self) -> None:
        with self._opened(0) as files:
            list(self._copiers.map(self._reader(files, PIECE_BYTES), self._pieces(PIECE_BYTES)))

    def remote(self) -> None:
        """Over HTTP, in ranges, by plain sockets."""
        assert self.http_depth is not None, "a web server is there when the tier is measured"
        self._read_http(self.http_depth, self._total)

    def _read_direct(self, depth: Depth, nbytes: int) -> None:
        with self._opened(os.O_DIRECT) as files:
            read = self._reader(files, depth.piece_bytes)

            def work(waiting: Iterator[_Piece]) -> None:
                for piece in waiting:
                    read(piece)

            self._share(depth, nbytes, work)

    def _read_http(self, depth: Depth, nbytes: int) -> None:
        paths = [f"/{STORE}/components/{path.name}" for path, _ in self._files]

        def work(waiting: Iterator[_Piece]) -> None:
            with closing(RangeReader(self._url)) as reader:
                for piece in waiting:
                    place = self._place(piece, depth.piece_bytes)
                    reader.read_into(paths[piece.file], piece.start, place[: piece.nbytes])

        self._share(depth, nbytes, work)

    def _share(self, depth: Depth, nbytes: int, work: Callable[[Iterator[_Piece]], None]) -> None:
        """Each thread takes the next piece: more at once than there are threads would be deeper."""
        waiting = iter(self._pieces(depth.piece_bytes)[: -(-nbytes // depth.piece_bytes)])
        done, _ = wait([self._readers.submit(work, waiting) for _ in range(depth.threads)])
        for each in done:
            each.result()

    @contextmanager
    def _opened(self, flags: int) -> Iterator[list[int]]:
        descriptors = [os.open(path, os.O_RDONLY | flags) for path, _ in self._files]
        try:
            yield descriptors
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _pieces(self, nbytes: int) -> list[_Piece]:
        found = [
            (file, start, min(nbytes, size - start))
            for file, (_, size) in enumerate(self._files)
            for start in range(0, size, nbytes)
        ]
        return [_Piece(number, *each) for number, each in enumerate(found)]

    def _place(self, piece: _Piece, nbytes: int) -> memoryview:
        """Where a piece of at most so many bytes goes in the window: room for a whole one."""
        start = piece.number % (self._memory.nbytes // nbytes) * nbytes
        return self._memory.view[start : start + nbytes]

    def _reader(self, descriptors: Sequence[int], nbytes: int) -> Callable[[_Piece], None]:
        def read(piece: _Piece) -> None:
            # Past the end a direct read stops by itself; its buffer has to be whole blocks.
            place = self._place(piece, nbytes)
            if os.preadv(descriptors[piece.file], [place], piece.start) < piece.nbytes:
                raise OSError("a read came back short; this floor would be too good")

        return read

    def _to_memory(self) -> Callable[[], None]:
        target = Memory(self._memory.nbytes)
        target.touch(len(os.sched_getaffinity(0)))
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


def _fastest(read: Callable[[Depth, int], None], depths: Sequence[Depth]) -> Depth:
    """By the better of its tries, which take turns, over at most a window of the files."""
    best = dict.fromkeys(depths, math.inf)
    for _ in range(TRIES):
        for depth in depths:
            began = time.perf_counter()
            read(depth, WINDOW_BYTES)
            best[depth] = min(best[depth], time.perf_counter() - began)
    return min(depths, key=lambda depth: best[depth])
