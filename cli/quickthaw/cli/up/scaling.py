"""As many workers as the scheduler wants, within the bounds that `up` was given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from quickthaw.cli.up.fleet_keeper import FleetKeeper
from quickthaw.client import AsyncClient, Worker
from quickthaw.wire.errors import QuickthawError

POLL_SECONDS = 0.5


class Scaler:
    """Asks the scheduler every `POLL_SECONDS`. More workers are started at once; those that are too
    many end what they have and exit, those with nothing to do first."""

    def __init__(self, client: AsyncClient, keeper: FleetKeeper, least: int, most: int) -> None:
        self._client = client
        self._keeper = keeper
        self._least = least
        self._most = most

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._adjust()
            except QuickthawError:
                # The scheduler is away, or a worker has just gone: asked again soon.
                continue

    async def _adjust(self) -> None:
        fleet = await self._client.workers.status()
        count = max(self._least, min(fleet.workers_wanted, self._most))
        if count > len(self._keeper.wanted):
            self._keeper.grow(count)
        for worker_id in surplus(self._keeper.wanted, fleet.workers, count):
            await self._client.workers.drain(worker_id, stop=True)
            self._keeper.let_go(worker_id)


def surplus(wanted: Iterable[str], workers: Iterable[Worker], count: int) -> tuple[str, ...]:
    """Whom to let go so that `count` are left: attached ones, with the least to do, newest first.
    Workers that are reserved for an endpoint stay, and so do those that are still starting."""
    order = {worker_id: index for index, worker_id in enumerate(wanted)}
    able = [w for w in workers if w.worker_id in order and not w.dedicated_to]
    able.sort(key=lambda worker: (len(worker.attempts), -order[worker.worker_id]))
    return tuple(worker.worker_id for worker in able[: max(0, len(order) - count)])
