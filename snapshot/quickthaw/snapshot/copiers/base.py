"""The port for ways of getting a file's bytes into memory."""

from __future__ import annotations

from typing import Protocol


class Copier(Protocol):
    """One I/O path. Stateless and thread-safe; calls release the GIL while they wait."""

    @property
    def name(self) -> str: ...

    @property
    def open_flags(self) -> int:
        """What to add to the flags that the file is opened with."""
        ...

    def read_into(self, descriptor: int, offset: int, target: memoryview, nbytes: int) -> int:
        """Reads up to `nbytes` from byte `offset`; returns how many, fewer only at the end of file.

        `offset` is a multiple of 4096. `target` is page-aligned and as long as `nbytes` rounded up
        to 4096; the bytes after `nbytes` may be overwritten.
        """
        ...
