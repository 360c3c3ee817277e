"""What models have been, so that they can be that again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_releases",
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("registered_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "version"),
    )
    op.create_index("model_releases_number", "model_releases", ["model_id", "number"], unique=True)
    # When earlier versions were registered is not known; what a model is now becomes its first.
    op.execute(
        "INSERT INTO model_releases (model_id, version, number, registered_unix_ms) "
        "SELECT model_id, version, 1, registered_unix_ms FROM models"
    )


def downgrade() -> None:
    op.drop_table("model_releases")
