"""What keeps a second scheduler out of a store: a file's lock, or one of a PostgreSQL session."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

from sqlalchemy import select, text, update
from sqlalchemy.engine import Connection

from quickthaw.scheduler.store.schema import leader
from quickthaw.wire import errors

# Any fixed number does; it names our lock among the advisory locks of a PostgreSQL database.
ADVISORY_LOCK = 0x71_75_69_63_6B

_TAKE = text("SELECT pg_try_advisory_lock(:lock)")
_NEXT_GENERATION = (
    update(leader).values(generation=leader.c.generation + 1).returning(leader.c.generation)
)
_LAST_GENERATION = select(leader.c.generation)
_END_FORMER_SESSION = text(
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE locktype = 'advisory' AND granted AND datname = current_database() "
    "AND classid::bigint << 32 | objid::bigint = :lock AND application_name = :name"
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


class SessionLock:
    """Of the connection that writes, and lost with it. Whoever begins takes a number, so that one
    who has the lock again knows whether somebody else had it meanwhile: then what it remembers is
    old, and it must not write any more."""

    def __init__(self) -> None:
        self.name = f"quickthaw-scheduler {uuid.uuid4().hex[:12]}"
        """The session's for PostgreSQL; at most 63 characters."""
        self.taken_over = False
        self._generation = 0

    def begin(self, connection: Connection) -> None:
        """Holding the lock, with the schema as it should be."""
        # A row and not a sequence: after a crash of the server a sequence has skipped some.
        self._generation = connection.execute(_NEXT_GENERATION).scalar_one()
        connection.commit()

    def take(self, connection: Connection) -> None:
        """Raises FailedPrecondition if another scheduler holds the lock; Unavailable, for good, if
        one has taken over; StoreUnavailable while our own former session is being ended."""
        taken = connection.execute(_TAKE, {"lock": ADVISORY_LOCK}).scalar_one()
        if not self._generation:
            connection.commit()
            if not taken:
                raise errors.FailedPrecondition("another scheduler is using the store")
            return
        if not taken and self._end_former_session(connection):
            # After a broken network the server may hold on to it for hours.
            raise errors.StoreUnavailable("ended an own session that had lost its connection")
        newest = connection.execute(_LAST_GENERATION).scalar_one()
        connection.commit()
        if not taken or newest != self._generation:
            self.taken_over = True
            raise errors.Unavailable("another scheduler has taken over; ask again")

    def _end_former_session(self, connection: Connection) -> bool:
        mine = {"lock": ADVISORY_LOCK, "name": self.name}
        ended = connection.execute(_END_FORMER_SESSION, mine).all()
        connection.commit()
        return bool(ended)
