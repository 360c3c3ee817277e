"""Keys: limits, rotation, and when they were last used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = (
    ("limits_json", sa.Text(), "{}"),
    ("last_used_unix_ms", sa.BigInteger(), "0"),
    ("rotated_unix_ms", sa.BigInteger(), "0"),
    ("old_secret_sha256", sa.String(length=64), ""),
    ("old_secret_until_unix_ms", sa.BigInteger(), "0"),
)


def upgrade() -> None:
    with op.batch_alter_table("keys") as table:
        for name, kind, default in COLUMNS:
            table.add_column(sa.Column(name, kind, nullable=False, server_default=default))


def downgrade() -> None:
    with op.batch_alter_table("keys") as table:
        for name, _, _ in reversed(COLUMNS):
            table.drop_column(name)
