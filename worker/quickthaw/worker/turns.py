"""Who runs on which components right now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One run at a time for each component: modules are shared and not re-entrant. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[str] = set()

    @contextmanager
    def of(self, components: frozenset[str], *, wait: bool = True) -> Iterator[bool]:
        """A turn on all of them at once, until the end of the block.

        Without `wait` it is false where another has its turn, and nothing may be run then.
        """
        with self._changed:
            self._changed.wait_for(lambda: not wait or self._running.isdisjoint(components))
            free = self._running.isdisjoint(components)
            if free:
                self._running |= components
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._running -= components
                    self._changed.notify_all()
