"""What a scheduler does beside its calls, from its start to its stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

logger = logging.getLogger(__name__)


class Background:
    """Belongs to the event loop. A task that fails is told at once, not when somebody looks."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._tell_broken: Callable[[], None] = lambda: None
        self.broken = False
        """Something without which there is nothing to serve has failed."""

    def when_broken(self, tell: Callable[[], None]) -> None:
        """Calls back once, at once if it is broken already."""
        self._tell_broken = tell
        if self.broken:
            tell()

    def start(self, work: Coroutine[None, None, None], name: str, *, needed: bool = False) -> None:
        """`needed`: its failure breaks the scheduler, which must then be started again."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, needed))

    def _ended(self, task: asyncio.Task[None], needed: bool) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.critical("%s has failed and does not go on", task.get_name(), exc_info=error)
        if needed:
            self.fail()

    def fail(self) -> None:
        """There is nothing to serve any more."""
        if not self.broken:
            self.broken = True
            self._tell_broken()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
