"""Deployments that tenants ask for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deployments",
        sa.Column("deployment_id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_id", sa.String(length=64), nullable=False),
        sa.Column("created_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("spec_json", sa.Text(), nullable=False),
        sa.Column("progress_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("deployment_id"),
    )
    op.create_index("deployments_open", "deployments", ["finished_unix_ms", "due_unix_ms"])
    op.create_index("deployments_tenant", "deployments", ["tenant", "deployment_id"])


def downgrade() -> None:
    op.drop_index("deployments_tenant", table_name="deployments")
    op.drop_index("deployments_open", table_name="deployments")
    op.drop_table("deployments")
