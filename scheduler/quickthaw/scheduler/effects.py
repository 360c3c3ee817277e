"""What waits for the core's writes: it happens in order, when they are durable."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from quickthaw.scheduler.store.journal import Journal
from quickthaw.scheduler.store.statements import Row
from quickthaw.wire import errors

logger = logging.getLogger(__name__)

Actions = Sequence[Callable[[], None]]


class _Issued:
    """A write on its way, and what to do when it and all before it are durable."""

    __slots__ = ("actions", "settled")

    def __init__(self, actions: list[Callable[[], None]]) -> None:
        self.actions = actions
        self.settled = False


class Effects:
    """Belongs to the event loop."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._issued: deque[_Issued] = deque()
        self.lost: errors.QuickthawError | None = None
        """While what follows a write is done that was given up: why."""

    @property
    def waiting(self) -> bool:
        """Whether any write is still on its way."""
        return bool(self._issued)

    def issue(
        self,
        rows: Sequence[Row],
        then: list[Callable[[], None]],
        handed_over: Callable[[], None] | None = None,
    ) -> None:
        """Writes the rows, and acts when they and all that was issued before are durable. Takes
        `then` over. `handed_over`: see `Journal.write`."""
        issued = _Issued(then)
        self._issued.append(issued)
        self._journal.write(rows, partial(self._settle, issued), kept=True, handed_over=handed_over)

    def later(self, actions: Actions) -> None:
        """Acts when everything that was issued is durable: at once, if it is."""
        if self._issued:
            self._issued[-1].actions.extend(actions)
        else:
            for action in actions:
                action()

    async def durable(self) -> None:
        """Returns when everything that was issued is durable, or as durable as it will be."""
        if self._issued:
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._issued[-1].actions.append(partial(_reach, reached))
            await reached

    def _settle(self, issued: _Issued, error: errors.QuickthawError | None) -> None:
        issued.settled = True
        if error is not None:
            # The journal has logged why; it gives up only what no store would take.
            logger.error("%d effects follow a write that failed", len(issued.actions))
            lost, over = partial(self._note_loss, error), partial(self._note_loss, None)
            issued.actions = [lost, *issued.actions, over]
        while self._issued and self._issued[0].settled:
            for action in self._issued.popleft().actions:
                try:
                    action()
                except Exception:
                    # A bug of ours; what the others wait for has happened all the same.
                    logger.exception("what follows a write failed")

    def _note_loss(self, error: errors.QuickthawError | None) -> None:
        self.lost = error


def _reach(reached: asyncio.Future[None]) -> None:
    if not reached.done():
        reached.set_result(None)
