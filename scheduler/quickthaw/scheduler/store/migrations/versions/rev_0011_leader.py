"""A number for each scheduler that begins; see `store.locks`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    leader = op.create_table("leader", sa.Column("generation", sa.BigInteger(), nullable=False))
    op.bulk_insert(leader, [{"generation": 0}])


def downgrade() -> None:
    op.drop_table("leader")
