"""What a database's complaint means to us."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
)

from quickthaw.wire import errors

RETRY_DELAY_SECONDS = 2.0
"""What a caller is told when the store refuses; the journal itself tries again sooner."""

ROW_FAULTS = (
    *(IntegrityError, DataError, ProgrammingError),
    # On SQLite rows go straight to the driver: see `Statements.execute`.
    *(sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError),
    # Of a value that a driver has no form for, such as an integer of more than 64 bits.
    *(OverflowError, TypeError, ValueError),
)
"""What no store would take, now or later: a bug of ours, never an outage to wait out."""

_POSTGRES_DISK_FULL = "53100"
# Class 53 is insufficient resources, 57 operator intervention, 58 system errors, 08 connections,
# 25006 a read-only transaction (a demoted primary): all of them pass.
_POSTGRES_PASSING = ("53", "57", "58", "08", "25006")


def store_fault(error: Exception) -> errors.QuickthawError:
    """StorageFull, StoreUnavailable, or Internal for what only a bug of ours can cause."""
    if isinstance(error, errors.QuickthawError):
        return error
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if _is_full(cause):
        return errors.StorageFull(
            "the disk under the store is full, so nothing can be accepted; free space on it",
            retry_delay_seconds=RETRY_DELAY_SECONDS,
        )
    if isinstance(error, ROW_FAULTS) or not isinstance(error, SQLAlchemyError | sqlite3.Error):
        return errors.Internal(f"the store refused a row: {_one_line(cause)}")
    if isinstance(cause, sqlite3.Error) or _passes(cause):
        return errors.StoreUnavailable(
            f"the store does not answer: {_one_line(cause)}",
            retry_delay_seconds=RETRY_DELAY_SECONDS,
        )
    return errors.Internal(f"the store refused a statement: {_one_line(cause)}")


def _is_full(cause: BaseException) -> bool:
    if isinstance(cause, sqlite3.Error):
        # Absent on errors that the driver raises itself.
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return getattr(cause, "sqlstate", None) == _POSTGRES_DISK_FULL


def _passes(cause: BaseException) -> bool:
    """Whether trying later can help. A connection that never came to be has no SQLSTATE."""
    state: str | None = getattr(cause, "sqlstate", None)
    return state is None or state.startswith(_POSTGRES_PASSING)


def _one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split()) or type(cause).__name__
