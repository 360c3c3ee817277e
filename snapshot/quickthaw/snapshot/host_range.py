"""The port for host memory that holds one component: a part of the slab, or a mapped file."""

from __future__ import annotations

from typing import Protocol


class HostRange(Protocol):
    """Page-aligned bytes with a count of their holders; given back when all have let go."""

    @property
    def nbytes(self) -> int:
        """Whole pages."""
        ...

    @property
    def view(self) -> memoryview:
        """The bytes, writable. Must not be used after the last `release`."""
        ...

    @property
    def shared(self) -> bool:
        """Whether somebody beside the first holder uses it."""
        ...

    def retain(self) -> None: ...

    def release(self) -> None: ...

    def release_later(self) -> None:
        """`release` without taking a lock, for finalizers: they may run anywhere."""
        ...

    def list_as(self, digest: str, nbytes: int) -> None:
        """Says in a shared slab that a complete, checked component is here."""
        ...

    def unlist(self) -> None:
        """Takes that back."""
        ...

    def pieces(self, start: int, nbytes: int, piece_bytes: int) -> list[tuple[int, int]]:
        """Cuts bytes `start` to `start + nbytes` for copying: `(start, size)` relative to `start`.

        No piece is over `piece_bytes` or crosses from one registration into another.
        """
        ...
