"""What the catalog's models have been, as it was written."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select, union
from sqlalchemy.engine import Connection

from quickthaw.scheduler.catalog import CatalogModel
from quickthaw.scheduler.store import schema

UNUSED_MAX = 10_000
NUMBER_MAX = 2**62
"""Beyond what a store's integers hold with room."""


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a model; the model's time is when this version was first registered."""

    number: int
    model: CatalogModel


def number_for(connection: Connection, model_id: str, version: str) -> int:
    """The number that this version of the model has, or the next one."""
    columns = schema.model_releases.c
    known = select(columns.number).where(columns.model_id == model_id, columns.version == version)
    if (number := connection.execute(known).scalar_one_or_none()) is not None:
        return int(number)
    newest = select(func.max(columns.number)).where(columns.model_id == model_id)
    return (connection.execute(newest).scalar_one() or 0) + 1


def release(connection: Connection, model_id: str, number: int) -> Release | None:
    if not 0 < number < NUMBER_MAX:
        return None
    found = releases(connection, model_id, below=number + 1, limit=1)
    return found[0] if found and found[0].number == number else None


def releases(connection: Connection, model_id: str, *, below: int, limit: int) -> list[Release]:
    """Those with smaller numbers than `below`, the newest first."""
    rows, versions = schema.model_releases, schema.model_versions
    statement = (
        select(rows.c.number, rows.c.registered_unix_ms, versions.c.document_json)
        .join_from(rows, versions, rows.c.version == versions.c.version)
        .where(rows.c.model_id == model_id, rows.c.number < below)
        .order_by(rows.c.number.desc())
        .limit(limit)
    )
    return [
        Release(row.number, CatalogModel.from_document(row.document_json, row.registered_unix_ms))
        for row in connection.execute(statement)
    ]


def unused_snapshots(connection: Connection) -> list[tuple[str, str]]:
    """Digest and URI of what neither a model's versions nor an open request refer to."""
    versions, requests = schema.model_versions, schema.requests
    needed = union(
        select(schema.model_releases.c.version),
        select(requests.c.model_version).where(requests.c.finished_unix_ms == 0),
    )
    needed_versions = set(connection.execute(needed).scalars())
    kept: set[str] = set()
    unneeded: set[tuple[str, str]] = set()
    for row in connection.execute(select(versions.c.version, versions.c.document_json)):
        spec = CatalogModel.from_document(row.document_json, 0).spec
        if row.version in needed_versions:
            kept.add(spec.snapshot_digest)
        elif spec.snapshot_digest:
            unneeded.add((spec.snapshot_digest, spec.snapshot_uri))
    return sorted(each for each in unneeded if each[0] not in kept)[:UNUSED_MAX]
