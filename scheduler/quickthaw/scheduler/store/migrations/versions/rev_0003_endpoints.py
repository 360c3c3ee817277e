"""How models are served, and which of them are quarantined."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("visibility", sa.String(length=16), nullable=False),
        sa.Column("owner_tenant", sa.String(length=64), nullable=False),
        sa.Column("min_replicas", sa.Integer(), nullable=False),
        sa.Column("max_replicas", sa.Integer(), nullable=False),
        sa.Column("buffer", sa.Integer(), nullable=False),
        sa.Column("scale_up_delay_ms", sa.BigInteger(), nullable=False),
        sa.Column("scale_down_delay_ms", sa.BigInteger(), nullable=False),
        sa.Column("keep_alive_ms", sa.BigInteger(), nullable=False),
        sa.Column("concurrency_max", sa.Integer(), nullable=False),
        sa.Column("reserved_workers", sa.Integer(), nullable=False),
        sa.Column("worker_labels_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model_id"),
    )
    op.create_table(
        "quarantines",
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("snapshot_digest", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model_id"),
    )


def downgrade() -> None:
    op.drop_table("quarantines")
    op.drop_table("endpoints")
