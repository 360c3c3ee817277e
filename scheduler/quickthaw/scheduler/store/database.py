"""Opens the store: set up for durability, with the lock that keeps a second writer out."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError

from quickthaw.scheduler.store.faults import store_fault
from quickthaw.wire import errors

# Any fixed number does; it names our lock among the advisory locks of a PostgreSQL database.
ADVISORY_LOCK = 0x71_75_69_63_6B

LOCK_POLL_SECONDS = 0.05


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
            return url.set(drivername="postgresql+psycopg")
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


def open_engine(url: URL, *, connections_max: int) -> Engine:
    """An engine whose connections are checked before use, so that a restarted server is found."""
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
        connect_args={"connect_timeout": 5, "application_name": "quickthaw-scheduler"},
    )


class FileLock:
    """An exclusive lock on a file beside a SQLite database; it ends with the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Writer:
    """The one connection that writes, with the lock that keeps a second scheduler out.

    On PostgreSQL the lock belongs to the session, so a connection that was lost has lost the lock
    with it and takes it again before the next write: a scheduler that was cut off cannot write
    beside its successor. Not thread-safe: one thread uses it.
    """

    def __init__(self, engine: Engine, url: URL) -> None:
        self._engine = engine
        self._url = url
        self._connection: Connection | None = None
        self._file_lock: FileLock | None = None
        if url.get_backend_name() == "sqlite":
            self._file_lock = FileLock(Path(f"{url.database}.lock"))

    def lock(self, wait_seconds: float) -> None:
        """Raises FailedPrecondition if another scheduler holds the store, StoreUnavailable."""
        deadline = time.monotonic() + wait_seconds
        while not self._try_lock():
            if time.monotonic() >= deadline:
                where = self._url.render_as_string(hide_password=True)
                raise errors.FailedPrecondition(
                    f"another scheduler is using the store {where}; stop it, or give this one a "
                    "--data-dir or --store of its own"
                )
            time.sleep(LOCK_POLL_SECONDS)

    def _try_lock(self) -> bool:
        if self._file_lock is not None:
            return self._file_lock.acquire()
        try:
            self.connection()
        except errors.FailedPrecondition:
            return False
        return True

    def connection(self) -> Connection:
        """A live connection that holds the lock. Raises our errors."""
        if self._connection is not None and not self._connection.invalidated:
            return self._connection
        self.discard()
        try:
            connection = self._engine.connect()
        except Exception as error:
            raise store_fault(error) from error
        if self._file_lock is None and not self._take_advisory_lock(connection):
            connection.close()
            raise errors.FailedPrecondition("another scheduler is using the store")
        self._connection = connection
        return connection

    def _take_advisory_lock(self, connection: Connection) -> bool:
        try:
            taken = connection.execute(
                text("SELECT pg_try_advisory_lock(:lock)"), {"lock": ADVISORY_LOCK}
            ).scalar_one()
            connection.commit()
        except Exception as error:
            connection.close()
            raise store_fault(error) from error
        return bool(taken)

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
