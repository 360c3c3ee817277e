"""Reads, each in a thread and on a connection of its own: they never wait for the writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Engine, Select
from sqlalchemy.engine import Connection, Row

from quickthaw.scheduler.store.faults import store_fault

Result = TypeVar("Result")


class Reader:
    """Runs queries off the event loop, at most `threads` at once."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="store-reader")

    async def run(self, query: Callable[[Connection], Result]) -> Result:
        """The query's answer. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)

    def _run(self, query: Callable[[Connection], Result]) -> Result:
        try:
            with self._engine.connect() as connection:
                return query(connection)
        except Exception as error:
            raise store_fault(error) from error

    async def rows(self, select: Select[*tuple[object, ...]]) -> Sequence[Row[*tuple[object, ...]]]:
        return await self.run(lambda connection: connection.execute(select).fetchall())

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._engine.dispose()
