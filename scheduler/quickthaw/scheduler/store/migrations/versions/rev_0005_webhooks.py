"""Webhooks with what signs them; start deadlines and the callers' own bound on attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, kind in (("start_deadline_unix_ms", sa.BigInteger()), ("attempts_max", sa.Integer())):
        # The default is for the rows that are there; new ones name every column.
        op.add_column("requests", sa.Column(name, kind, nullable=False, server_default="0"))
    op.create_table(
        "webhooks",
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("dialect", sa.String(length=16), nullable=False),
        sa.Column("events", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_id", sa.String(length=64), nullable=False),
        sa.Column("lease_until_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("history_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("request_id"),
    )
    op.create_index("webhooks_due", "webhooks", ["state", "due_unix_ms"], unique=False)
    op.create_index("webhooks_tenant", "webhooks", ["tenant", "request_id"], unique=False)
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("private_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kid"),
    )


def downgrade() -> None:
    op.drop_table("signing_keys")
    op.drop_index("webhooks_tenant", table_name="webhooks")
    op.drop_index("webhooks_due", table_name="webhooks")
    op.drop_table("webhooks")
    op.drop_column("requests", "attempts_max")
    op.drop_column("requests", "start_deadline_unix_ms")
