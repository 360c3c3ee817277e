"""Accounts with limits, credits and alerts; who submitted a request; what is sold by output."""

from __future__ import annotations

import datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "requests", sa.Column("key_id", sa.String(length=32), nullable=False, server_default="")
    )
    for table, columns in {
        "attempts": ("unit", "unit_price_nanodollars"),
        "ledger": ("key_id", "unit", "micro_units", "unit_price_nanodollars"),
    }.items():
        for name in columns:
            op.add_column(table, _column(name))
    op.create_table(
        "accounts",
        sa.Column("account", sa.String(length=100), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("budget_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("budget_span", sa.String(length=8), nullable=False),
        sa.Column("alert_percents", sa.String(length=64), nullable=False),
        sa.Column("locked", sa.Integer(), nullable=False),
        sa.Column("lock_reason", sa.String(length=200), nullable=False),
        sa.Column("prepaid", sa.Integer(), nullable=False),
        sa.Column("credit_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("credit_full_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("spent_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("month_spent_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("budget_alerted_percent", sa.Integer(), nullable=False),
        sa.Column("credit_alerted_percent", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account"),
    )
    op.create_index("accounts_tenant", "accounts", ["tenant"])
    op.create_table(
        "credit_grants",
        sa.Column("grant_id", sa.String(length=128), nullable=False),
        sa.Column("account", sa.String(length=100), nullable=False),
        sa.Column("amount_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(length=200), nullable=False),
        sa.Column("granted_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("grant_id"),
    )
    op.create_index("credit_grants_account", "credit_grants", ["account", "granted_unix_ms"])
    op.create_table(
        "budget_alerts",
        sa.Column("alert_id", sa.String(length=160), nullable=False),
        sa.Column("account", sa.String(length=100), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("used_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("limit_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("raised_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("alert_id"),
    )
    op.create_index("budget_alerts_tenant", "budget_alerts", ["tenant", "raised_unix_ms"])
    _accounts_of_what_was_spent()


def _column(name: str) -> sa.Column[str] | sa.Column[int]:
    if name.endswith(("nanodollars", "units")):
        return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
    length = 32 if name == "key_id" else 16
    return sa.Column(name, sa.String(length=length), nullable=False, server_default="")


def _accounts_of_what_was_spent() -> None:
    """What tenants spent before there were accounts counts: in all, and in the month under way."""
    now = datetime.datetime.now(datetime.UTC)
    month_start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    statement = sa.text(
        "INSERT INTO accounts (account, tenant, key_id, budget_nanodollars, budget_span, "
        "alert_percents, locked, lock_reason, prepaid, credit_nanodollars, "
        "credit_full_nanodollars, spent_nanodollars, month, month_spent_nanodollars, "
        "budget_alerted_percent, credit_alerted_percent) "
        "SELECT tenant, tenant, '', -1, 'month', '', 0, '', 0, 0, 0, SUM(price_nanodollars), "
        "CAST(:month AS VARCHAR(7)), "
        "SUM(CASE WHEN closed_unix_ms >= :since THEN price_nanodollars ELSE 0 END), 0, 0 "
        "FROM ledger GROUP BY tenant"
    )
    since_ms = int(month_start.timestamp() * 1000)
    op.get_bind().execute(statement, {"month": f"{now:%Y-%m}", "since": since_ms})


def downgrade() -> None:
    for table in ("budget_alerts", "credit_grants", "accounts"):
        op.drop_table(table)
    for table, columns in {
        "requests": ("key_id",),
        "attempts": ("unit", "unit_price_nanodollars"),
        "ledger": ("key_id", "unit", "micro_units", "unit_price_nanodollars"),
    }.items():
        for name in columns:
            op.drop_column(table, name)
