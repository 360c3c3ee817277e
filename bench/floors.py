"""What this machine can do at best: the same bytes, moved by the same number of threads."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from quickthaw.snapshot.memory import Memory, round_up

PIECE_BYTES = 16 << 20
GPU_PIECE_BYTES = 256 << 20


class Floors:
    """Reads `paths` into huge pages that were touched before, and copies host memory onwards."""

    def __init__(self, paths: list[Path], kind: str, readers: int) -> None:
        self._places: list[tuple[Path, int, int]] = []  # file, its place in memory, its bytes
        position = 0
        for path in paths:
            size = path.stat().st_size
            self._places.append((path, position, size))
            position = round_up(position + size, PIECE_BYTES)
        self._memory = Memory(position)
        self._memory.touch(readers)
        self._readers = ThreadPoolExecutor(readers)
        self._copiers = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        if kind == "cuda":
            # torch's own pinned memory: nothing of ours is in this number.
            self._pinned = torch.empty(position, dtype=torch.uint8, pin_memory=True)
            self._gpu = torch.empty(position, dtype=torch.uint8, device="cuda")
            self.to_device = self._to_gpu
        else:
            self._target = Memory(position)
            self._target.touch(readers)
            self.to_device = self._to_memory

    def direct(self) -> None:
        self._read(os.O_DIRECT)

    def page_cache(self) -> None:
        self._read(0)

    def _read(self, flags: int) -> None:
        opened = [os.open(path, os.O_RDONLY | flags) for path, _, _ in self._places]

        def read(piece: tuple[int, int, int, int]) -> None:
            descriptor, start, place, size = piece
            # Past the end a direct read stops by itself; its buffer has to be whole blocks.
            view = self._memory.view[place + start : place + start + PIECE_BYTES]
            if os.preadv(descriptor, [view], start) < size:
                raise SystemExit("a read came back short; this floor would be too good")

        pieces = [
            (descriptor, start, place, min(PIECE_BYTES, size - start))
            for descriptor, (_, place, size) in zip(opened, self._places, strict=True)
            for start in range(0, size, PIECE_BYTES)
        ]
        try:
            list(self._readers.map(read, pieces))
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _to_memory(self) -> None:
        def copy(start: int) -> None:
            size = min(PIECE_BYTES, self._memory.nbytes - start)
            ctypes.memmove(self._target.address + start, self._memory.address + start, size)

        list(self._copiers.map(copy, range(0, self._memory.nbytes, PIECE_BYTES)))

    def _to_gpu(self) -> None:
        for start in range(0, self._pinned.nbytes, GPU_PIECE_BYTES):
            end = start + GPU_PIECE_BYTES
            self._gpu[start:end].copy_(self._pinned[start:end], non_blocking=True)
        torch.cuda.synchronize()


def huge_page_fraction(memory: Memory) -> float:
    """How much of a mapping the kernel really backs with huge pages, 0 to 1."""
    huge = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first:
            begin, end = (int(each, 16) for each in first.split("-"))
            inside = begin < memory.address + memory.nbytes and memory.address < end
        elif inside and first == "AnonHugePages:":
            huge += int(line.split()[1]) * 1024
    return min(1.0, huge / memory.nbytes)
