"""Opens the store: set up for durability, with the lock that keeps a second writer out."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError

from quickthaw.scheduler.store.faults import store_fault
from quickthaw.scheduler.store.locks import FileLock, SessionLock
from quickthaw.wire import errors

logger = logging.getLogger(__name__)

LOCK_POLL_SECONDS = 0.05
LOCK_POLL_SECONDS_MAX = 1.0
"""Of one who waits for long, such as a standby."""


def parse_url(text_url: str) -> URL:
    """`sqlite:///PATH` or `postgresql://...`. Raises SettingsInvalid."""
    try:
        url = make_url(text_url)
    except ArgumentError as error:
        # Not repeated here: a URL with a mistake in it may hold a password all the same.
        raise errors.SettingsInvalid(
            "--store is no URL: write sqlite:///PATH or postgresql://USER@HOST/DATABASE"
        ) from error
    match url.get_backend_name():
        case "sqlite":
            if not url.database or url.database == ":memory:":
                raise errors.SettingsInvalid(
                    "--store sqlite needs a file: write sqlite:////absolute/path"
                )
            return url.set(drivername="sqlite+pysqlite")
        case "postgresql":
            url = url.set(drivername="postgresql+psycopg")
            try:
                url.get_dialect().import_dbapi()
            except ImportError as error:
                raise errors.SettingsInvalid(
                    "--store postgresql:// needs psycopg, which cannot be loaded here: "
                    "pip install 'quickthaw[postgres]'"
                ) from error
            return url
        case other:
            raise errors.SettingsInvalid(
                f"--store {other} is not supported: write sqlite:///PATH or postgresql://..."
            )


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver's own idea of when to begin a transaction is turned off; `_begin_sqlite` does it.
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL, not NORMAL: an acknowledged request must survive the machine, not only the process.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def open_engine(url: URL, *, connections_max: int, name: str = "quickthaw-scheduler") -> Engine:
    """An engine whose connections are checked before use, so that a restarted server is found.
    `name` is what PostgreSQL shows of them."""
    if url.get_backend_name() == "sqlite":
        Path(url.database or "").resolve().parent.mkdir(parents=True, exist_ok=True)
        # Parameters by name, as PostgreSQL's driver has them: see `Statements`.
        engine = create_engine(url, pool_size=connections_max, max_overflow=0, paramstyle="named")
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        url,
        pool_size=connections_max,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 5, "application_name": name},
    )


class Writer:
    """The one connection that writes, with the lock that keeps a second scheduler out.

    On PostgreSQL the lock belongs to the session, so a connection that was lost has lost the lock
    with it and takes it again before the next write: a scheduler that was cut off cannot write
    beside its successor. Not thread-safe: one thread uses it.
    """

    def __init__(self, url: URL, *, connections_max: int) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._file_lock: FileLock | None = None
        self._session_lock = SessionLock()
        if url.get_backend_name() == "sqlite":
            self._file_lock = FileLock(Path(f"{url.database}.lock"))
        self.engine = open_engine(
            url, connections_max=connections_max, name=self._session_lock.name
        )

    @property
    def can_be_taken_over(self) -> bool:
        """Whether the lock can be lost while this process lives."""
        return self._file_lock is None

    @property
    def taken_over(self) -> bool:
        """Another scheduler has had the lock since: this one must end."""
        return self._session_lock.taken_over

    def lock(self, wait_seconds: float, stop: threading.Event) -> None:
        """Raises FailedPrecondition if another scheduler holds the store, Unavailable if `stop` was
        set meanwhile, StoreUnavailable."""
        deadline = time.monotonic() + wait_seconds
        pause_seconds = LOCK_POLL_SECONDS
        while not self._try_lock():
            where = self._url.render_as_string(hide_password=True)
            if time.monotonic() >= deadline:
                raise errors.FailedPrecondition(
                    f"another scheduler is using the store {where}; stop it, or give this one a "
                    "--data-dir or --store of its own"
                )
            if pause_seconds == LOCK_POLL_SECONDS:
                logger.info("another scheduler is using the store %s: waiting for it", where)
            if stop.wait(pause_seconds):
                raise errors.Unavailable("told to stop while another scheduler has the store")
            pause_seconds = min(1.5 * pause_seconds, LOCK_POLL_SECONDS_MAX)

    def _try_lock(self) -> bool:
        if self._file_lock is not None:
            return self._file_lock.acquire()
        try:
            self.connection()
        except errors.FailedPrecondition:
            return False
        return True

    def begin(self) -> None:
        """With the lock, on a schema that is up to date. Raises our errors."""
        if self._file_lock is None:
            self._session_lock.begin(self.connection())

    def connection(self) -> Connection:
        """A live connection that holds the lock. Raises our errors."""
        if self._connection is not None and not self._connection.invalidated:
            return self._connection
        self.discard()
        try:
            connection = self.engine.connect()
        except Exception as error:
            raise store_fault(error) from error
        if self._file_lock is None:
            try:
                self._session_lock.take(connection)
            except Exception as error:
                connection.invalidate()  # it may hold the lock, which must not lie in the pool
                connection.close()
                raise store_fault(error) from error
        self._connection = connection
        return connection

    def check(self) -> None:
        """Finds out whether the lock is still ours. Raises our errors."""
        connection = self.connection()
        try:
            connection.execute(text("SELECT 1"))
            connection.commit()
        except Exception as error:
            self.discard()
            raise store_fault(error) from error

    def discard(self) -> None:
        """Drops a connection that failed; the next `connection` makes a new one."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self.discard()
        if self._file_lock is not None:
            self._file_lock.release()
