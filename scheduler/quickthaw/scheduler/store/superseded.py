"""Leaves out what a later row of the same transaction says again.

A short attempt is placed, loads, runs and ends before the next commit. Then its end says all that
the rows before it said, and nobody can ever have seen them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quickthaw.scheduler.store.statements import Row, Statement, Value

# An attempt's end is written whole, whether or not its opening was.
_SAID_AGAIN_BY: Mapping[Statement, tuple[Statement, ...]] = {
    Statement.OPEN_ATTEMPT: (Statement.END_ATTEMPT,),
    Statement.PROGRESS_ATTEMPT: (Statement.PROGRESS_ATTEMPT, Statement.END_ATTEMPT),
    Statement.METER_ATTEMPT: (Statement.METER_ATTEMPT, Statement.END_ATTEMPT),
    Statement.UPDATE_REQUEST: (Statement.UPDATE_REQUEST, Statement.END_REQUEST),
    Statement.UPSERT_ACCOUNT: (Statement.UPSERT_ACCOUNT,),
}

# The column that tells whose row it is.
_SUBJECT: Mapping[Statement, str] = {
    Statement.OPEN_ATTEMPT: "attempt_id",
    Statement.PROGRESS_ATTEMPT: "key_attempt_id",
    Statement.METER_ATTEMPT: "key_attempt_id",
    Statement.END_ATTEMPT: "attempt_id",
    Statement.UPDATE_REQUEST: "key_request_id",
    Statement.END_REQUEST: "key_request_id",
    Statement.UPSERT_ACCOUNT: "account",
}


def without_superseded(rows: Sequence[Row]) -> list[Row]:
    """The rows of one transaction in their order, less those that need not be written."""
    said: set[tuple[Statement, Value]] = set()
    needed: list[Row] = []
    for row in reversed(rows):
        if (column := _SUBJECT.get(row.statement)) is not None:
            subject = row.values[column]
            again = _SAID_AGAIN_BY.get(row.statement, ())
            if any((statement, subject) in said for statement in again):
                continue
            said.add((row.statement, subject))
        needed.append(row)
    needed.reverse()
    return needed
