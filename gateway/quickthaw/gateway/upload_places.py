"""How many uploads are written at once, in all and of one tenant; the others wait to be read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from quickthaw.gateway.shares import Shares


class UploadPlaces:
    """Belongs to the event loop. What becomes free goes round the tenants that wait, and first come
    first served within each. There are no more that wait than connections."""

    def __init__(self, places_max: int, multiple: float) -> None:
        self._shares = Shares(places_max, multiple)
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By tenant; whose turn is the farthest away is the last."""

    @asynccontextmanager
    async def taken(self, tenant: str) -> AsyncIterator[None]:
        """Once there is one for the tenant."""
        await self._take(tenant)
        try:
            yield
        finally:
            self._give_back(tenant)

    async def _take(self, tenant: str) -> None:
        if tenant not in self._waiting and self._shares.take(tenant, 1):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._hand_out()
            else:  # It had just got one.
                self._give_back(tenant)
            raise

    def _give_back(self, tenant: str) -> None:
        self._shares.give_back(tenant, 1)
        self._hand_out()

    def _hand_out(self) -> None:
        while any(self._next(each) for each in tuple(self._waiting)):
            pass

    def _next(self, tenant: str) -> bool:
        """Whether one of the tenant's who wait got a place; the next turn is another's."""
        waiting = self._waiting[tenant]
        while waiting and waiting[0].done():
            waiting.popleft()  # It left.
        if not waiting:
            del self._waiting[tenant]
            return False
        if not self._shares.take(tenant, 1):
            return False
        waiting.popleft().set_result(None)
        del self._waiting[tenant]
        if waiting:
            self._waiting[tenant] = waiting
        return True
