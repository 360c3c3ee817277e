"""What a test hands out to peers."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from quickthaw.worker.peers import PIECE_BYTES

DIGEST, PINNED, LEAVING = "a" * 64, "b" * 64, "c" * 64
HEADER, DATA = b"H" * 4096, bytes(range(256)) * 40_000


class ShelfOfOne:
    """A file, a component in memory, and one that leaves memory after its first piece."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / DIGEST).write_bytes(DATA)
        self.let_go = threading.Semaphore(0)
        self.wait = threading.Event()
        self.wait.set()
        self.reached = threading.Event()

    def manifest(self, digest: str) -> bytes | None:
        return b"{}" if digest == DIGEST else None

    def file(self, kind: str, digest: str) -> BinaryIO | None:
        path = self.folder / digest
        if kind == "blobs" and path.is_file():
            return io.FileIO(path)
        return None

    def pinned(self, digest: str) -> tuple[bytes, int] | None:
        return (HEADER, len(DATA)) if digest in (PINNED, LEAVING) else None

    def pieces(self, digest: str, start: int, end: int) -> Generator[memoryview, None, None]:
        while start < end:
            self.reached.set()
            self.wait.wait(30)
            size = min(PIECE_BYTES, end - start)
            try:
                yield memoryview(DATA)[start : start + size]
            finally:
                self.let_go.release()
            if digest == LEAVING:
                return
            start += size
