"""How long what has ended is kept: one place for every table that would otherwise grow for ever.

Once a minute what is past its time goes, in portions so small that requests that are written
meanwhile wait some milliseconds. A request goes with its files: they are deleted first, so that a
crash between leaves a request without files and never files without a request. What is open is
never touched, whatever its age. (Explanations are bounded by their number, see `explanations.py`.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from quickthaw.scheduler.artifacts import STORED_AFTER_SECONDS_MAX, Artifacts
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.metrics import SchedulerMetrics
from quickthaw.scheduler.store.retention import (
    alert_purge,
    closed_lines,
    ended_requests,
    files_purge,
    idempotency_purge,
    io_purge,
    ledger_purge,
    request_purge,
    settled_webhooks,
    short_lived,
    short_lived_files,
    webhook_purge,
)
from quickthaw.scheduler.store.statements import Row
from quickthaw.scheduler.store.store import Store
from quickthaw.wire.errors import QuickthawError

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
PORTION = 100
"""Rows of each table in one transaction."""
FILES_AT_ONCE = 8
"""Requests whose files are looked for at once."""

Find = Callable[[Connection, int, int], list[str]]
"""Ids of at most so many rows from before a moment in milliseconds."""

Delete = Callable[[Sequence[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class KeepTimes:
    """From the end of a request, from when a webhook was last due, from the close of a ledger line,
    from the first use of an idempotency key. 0: for ever."""

    requests_ms: int
    webhooks_ms: int
    ledger_ms: int
    idempotency_ms: int


class Retention:
    """`run` must be running for anything to go."""

    def __init__(
        self,
        *,
        store: Store,
        artifacts: Artifacts,
        clock: Clock,
        metrics: SchedulerMetrics,
        keep: KeepTimes,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._clock = clock
        self._purged = metrics.purged
        self._keep = keep

    async def run(self) -> None:
        """Never returns. What fails is tried again with the next sweep."""
        while True:
            try:
                await self.sweep()
            except* QuickthawError as group:
                logger.warning("what is past its time was not deleted: %s", group.exceptions[0])
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """All that is past its time now. Raises StoreUnavailable, and Unavailable where the blob
        store does not delete."""
        keep = self._keep
        if keep.idempotency_ms:
            await self._write(idempotency_purge(self._before_ms(keep.idempotency_ms)))
        now_ms = self._clock.now_ms()
        await self._purge_before("short_lived", now_ms, short_lived, self._forget)
        # What a session was sent is stored a little after its end.
        stored_ms = now_ms - int(1000 * STORED_AFTER_SECONDS_MAX)
        await self._purge_before(
            "short_lived_files", stored_ms, short_lived_files, self._delete_only_files
        )
        await self._purge("webhooks", keep.webhooks_ms, settled_webhooks, self._delete_webhooks)
        await self._purge("requests", keep.requests_ms, ended_requests, self._delete_requests)
        await self._purge("ledger", keep.ledger_ms, closed_lines, self._delete_lines)
        if keep.ledger_ms:
            await self._write(alert_purge(self._before_ms(keep.ledger_ms)))

    async def _purge(self, table: str, keep_ms: int, find: Find, delete: Delete) -> None:
        if keep_ms:
            await self._purge_before(table, self._before_ms(keep_ms), find, delete)

    async def _purge_before(self, table: str, before_ms: int, find: Find, delete: Delete) -> None:
        # Behind everything that callers wait for.
        while not (self._store.journal.faulty or self._store.journal.behind):
            found = await self._store.reader.run(lambda c: find(c, before_ms, PORTION))
            if found:
                await delete(found)
                self._purged.labels(table).inc(len(found))
            if len(found) < PORTION:
                return

    async def _forget(self, request_ids: Sequence[str]) -> None:
        await self._write(io_purge(request_ids))

    async def _delete_only_files(self, request_ids: Sequence[str]) -> None:
        await self._delete_files(request_ids)
        await self._write(files_purge(request_ids))

    async def _delete_webhooks(self, request_ids: Sequence[str]) -> None:
        await self._write(webhook_purge(request_ids))

    async def _delete_lines(self, attempt_ids: Sequence[str]) -> None:
        await self._write(ledger_purge(attempt_ids))

    async def _delete_requests(self, request_ids: Sequence[str]) -> None:
        await self._delete_files(request_ids)
        await self._write(request_purge(request_ids))

    async def _delete_files(self, request_ids: Sequence[str]) -> None:
        slots = asyncio.Semaphore(FILES_AT_ONCE)

        async def delete(request_id: str) -> None:
            async with slots:
                await self._artifacts.delete_all(request_id)

        async with asyncio.TaskGroup() as group:
            for request_id in request_ids:
                group.create_task(delete(request_id))

    async def _write(self, rows: list[Row]) -> None:
        await asyncio.shield(self._store.journal.keep(rows))

    def _before_ms(self, keep_ms: int) -> int:
        return self._clock.now_ms() - keep_ms
