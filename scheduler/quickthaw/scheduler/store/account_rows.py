"""Accounts, credits and alerts: as rows, and as read again."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import RowMapping, select
from sqlalchemy.engine import Connection

from quickthaw.scheduler.core.accounts import (
    Account,
    AccountChange,
    AccountId,
    Alert,
    AlertKind,
    Grant,
    GrantCredit,
    Span,
)
from quickthaw.scheduler.core.budgets import Settled
from quickthaw.scheduler.core.model import TenantId
from quickthaw.scheduler.store import schema
from quickthaw.scheduler.store.statements import Row, Statement, Value

_NO_BUDGET = -1
_SPANS = {span: span.value for span in Span}


def account_change_rows(account: Account, change: AccountChange) -> list[Row]:
    rows = [_account_row(account)]
    if isinstance(change, GrantCredit):
        grant = change.grant
        values: dict[str, Value] = {
            "grant_id": grant.grant_id,
            "account": str(account.id),
            "amount_nanodollars": grant.amount_nanodollars,
            "note": grant.note,
            "granted_unix_ms": grant.granted_ms,
        }
        rows.append(Row(Statement.INSERT_GRANT, values))
    return rows


def settled_rows(settled: Settled) -> list[Row]:
    return [*map(_account_row, settled.accounts), *map(_alert_row, settled.alerts)]


def _account_row(account: Account) -> Row:
    # Written for every bill: no detour over names.
    tenant, key_id = account.id
    budget, credit = account.budget_nanodollars, account.credit_nanodollars
    percents = account.alert_percents
    values: dict[str, Value] = {
        "account": f"{tenant}/{key_id}" if key_id else tenant,
        "tenant": tenant,
        "key_id": key_id,
        "budget_nanodollars": _NO_BUDGET if budget is None else budget,
        "budget_span": _SPANS[account.span],
        "alert_percents": " ".join(map(str, percents)) if percents else "",
        "locked": int(account.locked),
        "lock_reason": account.lock_reason,
        "prepaid": int(credit is not None),
        "credit_nanodollars": credit or 0,
        "credit_full_nanodollars": account.credit_full_nanodollars,
        "spent_nanodollars": account.spent_nanodollars,
        "month": account.month,
        "month_spent_nanodollars": account.month_spent_nanodollars,
        "budget_alerted_percent": account.budget_alerted_percent,
        "credit_alerted_percent": account.credit_alerted_percent,
    }
    return Row(Statement.UPSERT_ACCOUNT, values)


def _alert_row(alert: Alert) -> Row:
    return Row(
        Statement.INSERT_ALERT,
        {
            "alert_id": alert.alert_id,
            "account": str(alert.account),
            "tenant": alert.account.tenant,
            "kind": alert.kind.value,
            "percent": alert.percent,
            "used_nanodollars": alert.used_nanodollars,
            "limit_nanodollars": alert.limit_nanodollars,
            "raised_unix_ms": alert.raised_ms,
        },
    )


# ---- read again ------------------------------------------------------------------------------


def accounts(connection: Connection) -> list[Account]:
    statement = select(schema.accounts).order_by(schema.accounts.c.account)
    return [_account(row) for row in connection.execute(statement).mappings()]


def _account(row: RowMapping) -> Account:
    return Account(
        id=AccountId(TenantId(row["tenant"]), row["key_id"]),
        budget_nanodollars=None if row["budget_nanodollars"] < 0 else row["budget_nanodollars"],
        span=Span(row["budget_span"]),
        alert_percents=tuple(map(int, row["alert_percents"].split())),
        locked=bool(row["locked"]),
        lock_reason=row["lock_reason"],
        credit_nanodollars=row["credit_nanodollars"] if row["prepaid"] else None,
        credit_full_nanodollars=row["credit_full_nanodollars"],
        spent_nanodollars=row["spent_nanodollars"],
        month=row["month"],
        month_spent_nanodollars=row["month_spent_nanodollars"],
        budget_alerted_percent=row["budget_alerted_percent"],
        credit_alerted_percent=row["credit_alerted_percent"],
    )


@dataclass(frozen=True, slots=True)
class GivenCredit:
    """A grant as it was stored."""

    account: str
    grant: Grant


def grant(connection: Connection, grant_id: str) -> GivenCredit | None:
    row = (
        connection.execute(
            select(schema.credit_grants).where(schema.credit_grants.c.grant_id == grant_id)
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        return None
    return GivenCredit(
        row["account"],
        Grant(row["grant_id"], row["amount_nanodollars"], row["note"], row["granted_unix_ms"]),
    )


def alerts(connection: Connection, tenant: str, size_max: int) -> list[Alert]:
    """Newest first, of one tenant or of all."""
    columns = schema.budget_alerts.c
    statement = select(schema.budget_alerts)
    if tenant:
        statement = statement.where(columns.tenant == tenant)
    statement = statement.order_by(columns.raised_unix_ms.desc(), columns.alert_id).limit(size_max)
    return [_alert(row) for row in connection.execute(statement).mappings()]


def _alert(row: RowMapping) -> Alert:
    tenant, _, key_id = row["account"].partition("/")
    return Alert(
        account=AccountId(TenantId(tenant), key_id),
        kind=AlertKind(row["kind"]),
        percent=row["percent"],
        used_nanodollars=row["used_nanodollars"],
        limit_nanodollars=row["limit_nanodollars"],
        raised_ms=row["raised_unix_ms"],
    )


def is_tenant(connection: Connection, tenant: str) -> bool:
    column = schema.tenants.c.tenant
    return connection.execute(select(column).where(column == tenant)).first() is not None
