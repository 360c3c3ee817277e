"""The store as one thing: opened, locked, migrated; with its writer and its readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quickthaw.scheduler.store.database import Writer, open_engine, parse_url
from quickthaw.scheduler.store.faults import store_fault
from quickthaw.scheduler.store.journal import CommitObserver, Journal, JournalLimits
from quickthaw.scheduler.store.migrate import upgrade
from quickthaw.scheduler.store.reader import Reader
from quickthaw.scheduler.store.statements import Statements


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
    on_commit: CommitObserver | None = None,
    on_fault: Callable[[bool], None] | None = None,
) -> Store:
    """Blocks. Raises SettingsInvalid for a bad URL, FailedPrecondition if another scheduler holds
    the store or a newer release wrote it, StoreUnavailable, StorageFull."""
    url = parse_url(store_url)
    try:
        engine = open_engine(url, connections_max=readers + 1)
    except OSError as error:
        raise store_fault(error) from error
    writer = Writer(engine, url)
    try:
        writer.lock(lock_wait_seconds)
        upgrade(writer.connection())
    except Exception as error:
        writer.close()
        engine.dispose()
        raise store_fault(error) from error
    statements = Statements(engine.dialect)
    journal = Journal(writer, statements, limits, on_commit, on_fault)
    return Store(journal, Reader(engine, readers))
