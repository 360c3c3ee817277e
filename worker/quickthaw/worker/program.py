"""What a worker host prepares once and its children run: the port between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Birth:
    """What a worker has from whoever started it."""

    forked_at_seconds: float
    """On the monotonic clock."""
    slab: int | None = None
    """A memory file that outlives the worker, for its pinned tier; None for memory of its own."""
    on_ready: Callable[[], None] = lambda: None
    """To be called once, when the worker can take requests."""


class Program(Protocol):
    """`imports` raises what importing does. Preparing raises nothing: it would end the parent, and
    every child with it."""

    def imports(self) -> Iterator[str]:
        """Imports what every child needs, a part for each name that it yields.

        Starts no threads and touches no device. What a caller does between the parts is not kept
        waiting for the whole.
        """
        ...

    def read_ahead(self, arguments: tuple[str, ...], slab: int) -> int:
        """Runs in a child of its own, before the imports are done, and returns its exit status.

        Fills the slab with what the worker will want first. May be ended at any moment.
        """
        ...

    def prepare(self, arguments: tuple[str, ...]) -> None:
        """Builds, in the parent, what a worker of these arguments will need at once."""
        ...

    def prepare_more(self) -> bool:
        """Builds one more thing that workers to come may need; whether there was one.

        Called while the parent has nothing else to do. Takes less than a second.
        """
        ...

    def run(self, arguments: tuple[str, ...], birth: Birth) -> int:
        """Is the worker, in a child; its exit status."""
        ...
