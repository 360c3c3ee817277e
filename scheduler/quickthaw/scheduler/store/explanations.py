"""Explanations of placements, as they were written."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.engine import Connection

from quickthaw.scheduler.store import schema


def explanation(connection: Connection, request_id: str) -> bytes | None:
    """A compressed ExplainResponse, or None if there is none any more."""
    columns = schema.explanations.c
    statement = select(columns.body).where(columns.request_id == request_id)
    body = connection.execute(statement).scalar_one_or_none()
    return None if body is None else bytes(body)
