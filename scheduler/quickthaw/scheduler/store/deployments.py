"""Deployments as rows, and what of a tenant's snapshots counts against its quota."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import RowMapping, func, select
from sqlalchemy.engine import Connection

from quickthaw.scheduler.catalog import CatalogModel
from quickthaw.scheduler.core.model import ModelSpec
from quickthaw.scheduler.deployment_rules import (
    Deployment,
    DeploymentSpec,
    DeploymentState,
    Progress,
)
from quickthaw.scheduler.store import schema
from quickthaw.scheduler.store.statements import Row, Statement, Value

_columns = schema.deployments.c
_NAMES_AT_ONCE = 500
"""Parameters of one query; SQLite has a limit on them."""


# ---- writes ----------------------------------------------------------------------------------


def new_row(deployment: Deployment) -> Row:
    return Row(
        Statement.INSERT_DEPLOYMENT,
        {
            "deployment_id": deployment.deployment_id,
            "tenant": deployment.tenant,
            "created_unix_ms": deployment.created_ms,
            "spec_json": deployment.spec.to_json(),
            **_changing(deployment),
        },
    )


def changed_row(deployment: Deployment) -> Row:
    return Row(
        Statement.UPDATE_DEPLOYMENT,
        {"key_deployment_id": deployment.deployment_id, **_changing(deployment)},
    )


def purge_row(finished_before_ms: int) -> Row:
    return Row(Statement.PURGE_DEPLOYMENTS, {"key_finished_unix_ms": finished_before_ms})


def gone_row(deployment_id: str) -> Row:
    return Row(Statement.DELETE_DEPLOYMENT, {"key_deployment_id": deployment_id})


def _changing(deployment: Deployment) -> dict[str, Value]:
    return {
        "state": deployment.state.value,
        "attempts": deployment.attempts,
        "due_unix_ms": deployment.due_ms,
        "lease_id": deployment.lease_id,
        "updated_unix_ms": deployment.updated_ms,
        "finished_unix_ms": deployment.finished_ms,
        "progress_json": deployment.progress.to_json(),
    }


# ---- reads -----------------------------------------------------------------------------------


def deployment(connection: Connection, deployment_id: str) -> Deployment | None:
    statement = select(schema.deployments).where(_columns.deployment_id == deployment_id)
    row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else _deployment(row)


def due_deployments(connection: Connection, now_ms: int, size_max: int) -> list[Deployment]:
    """Open ones that nobody has leased, longest due first."""
    statement = (
        select(schema.deployments)
        .where(_columns.finished_unix_ms == 0, _columns.due_unix_ms <= now_ms)
        .order_by(_columns.due_unix_ms, _columns.deployment_id)
        .limit(size_max)
    )
    return [_deployment(row) for row in connection.execute(statement).mappings()]


def open_counts(connection: Connection, tenant: str) -> tuple[int, int]:
    """Open deployments of the tenant, and of all."""
    is_open = _columns.finished_unix_ms == 0
    count = select(func.count()).select_from(schema.deployments)
    mine = connection.execute(count.where(is_open, _columns.tenant == tenant)).scalar_one()
    return mine, connection.execute(count.where(is_open)).scalar_one()


def open_of(connection: Connection, tenant: str) -> list[Deployment]:
    statement = select(schema.deployments).where(
        _columns.finished_unix_ms == 0, _columns.tenant == tenant
    )
    return [_deployment(row) for row in connection.execute(statement).mappings()]


def surplus_of(connection: Connection, tenant: str, kept: int) -> list[str]:
    """Ended ones of the tenant beyond the newest; a part of them, if there are many."""
    statement = (
        select(_columns.deployment_id)
        .where(_columns.tenant == tenant, _columns.finished_unix_ms > 0)
        .order_by(_columns.deployment_id.desc())
        .offset(kept)
        .limit(_NAMES_AT_ONCE)
    )
    return list(connection.execute(statement).scalars())


def deployment_page(
    connection: Connection,
    tenant: str,
    *,
    before_id: str,
    states: Sequence[DeploymentState],
    size: int,
) -> list[Deployment]:
    """Newest first; those older than `before_id` unless it is empty."""
    statement = select(schema.deployments).where(_columns.tenant == tenant)
    if before_id:
        statement = statement.where(_columns.deployment_id < before_id)
    if states:
        statement = statement.where(_columns.state.in_([state.value for state in states]))
    statement = statement.order_by(_columns.deployment_id.desc()).limit(size)
    return [_deployment(row) for row in connection.execute(statement).mappings()]


def versions_of(connection: Connection, model_ids: Collection[str]) -> list[ModelSpec]:
    """What the models have been, each version once."""
    releases, versions = schema.model_releases, schema.model_versions
    statement = select(versions.c.document_json).join_from(
        releases, versions, releases.c.version == versions.c.version
    )
    ids = sorted(model_ids)
    found: list[ModelSpec] = []
    for start in range(0, len(ids), _NAMES_AT_ONCE):
        part = ids[start : start + _NAMES_AT_ONCE]
        rows = connection.execute(statement.where(releases.c.model_id.in_(part))).scalars()
        found += [CatalogModel.from_document(document, 0).spec for document in rows]
    return found


def _deployment(row: RowMapping) -> Deployment:
    return Deployment(
        deployment_id=row["deployment_id"],
        tenant=row["tenant"],
        spec=DeploymentSpec.from_json(row["spec_json"]),
        state=DeploymentState(row["state"]),
        created_ms=row["created_unix_ms"],
        updated_ms=row["updated_unix_ms"],
        attempts=row["attempts"],
        due_ms=row["due_unix_ms"],
        lease_id=row["lease_id"],
        finished_ms=row["finished_unix_ms"],
        progress=Progress.from_json(row["progress_json"]),
    )
