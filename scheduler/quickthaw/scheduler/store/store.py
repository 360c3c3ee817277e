"""The store as one thing: opened, locked, migrated; with its writer and its readers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from quickthaw.scheduler.store.database import Writer, parse_url
from quickthaw.scheduler.store.execution import Statements
from quickthaw.scheduler.store.faults import store_fault
from quickthaw.scheduler.store.journal import CommitObserver, Journal, JournalLimits
from quickthaw.scheduler.store.migrate import upgrade
from quickthaw.scheduler.store.reader import Reader


@dataclass(frozen=True, slots=True)
class Store:
    """`journal` must be started on the event loop before it is used."""

    journal: Journal
    reader: Reader

    async def close(self) -> None:
        """Commits what waits, then lets go of the lock."""
        await self.journal.close()
        self.reader.close()


def open_store(
    store_url: str,
    *,
    readers: int,
    lock_wait_seconds: float,
    limits: JournalLimits,
    stop: threading.Event | None = None,
    on_commit: CommitObserver | None = None,
    on_fault: Callable[[bool], None] | None = None,
    on_taken_over: Callable[[], None] | None = None,
) -> Store:
    """Blocks, until `stop` is set at most. Raises SettingsInvalid for a bad URL, FailedPrecondition
    if another scheduler holds the store or a newer release wrote it, StoreUnavailable, StorageFull,
    Unavailable if told to stop."""
    url = parse_url(store_url)
    try:
        writer = Writer(url, connections_max=readers + 1)
    except OSError as error:
        raise store_fault(error) from error
    try:
        writer.lock(lock_wait_seconds, stop or threading.Event())
        upgrade(writer.connection())
        writer.begin()
    except Exception as error:
        writer.close()
        writer.engine.dispose()
        raise store_fault(error) from error
    statements = Statements(writer.engine.dialect)
    journal = Journal(writer, statements, limits, on_commit, on_fault, on_taken_over)
    return Store(journal, Reader(writer.engine, readers))
