"""The first schema: requests, attempts, ledger, catalog, tenants and keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.String(length=80), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(length=200), nullable=False),
        sa.Column("incarnation", sa.String(length=64), nullable=False),
        sa.Column("gpu_type", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("rate_nanodollars_per_second", sa.BigInteger(), nullable=False),
        sa.Column("price_version", sa.String(length=64), nullable=False),
        sa.Column("placed_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("loading_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("started_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("load_ms", sa.BigInteger(), nullable=False),
        sa.Column("start_tier", sa.Integer(), nullable=False),
        sa.Column("metered_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("placement", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id"),
    )
    op.create_index("attempts_ended", "attempts", ["ended_unix_ms"], unique=False)
    op.create_index("attempts_request_id", "attempts", ["request_id"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("created_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "idempotency_key"),
    )
    op.create_index("idempotency_created", "idempotency", ["created_unix_ms"], unique=False)
    op.create_table(
        "keys",
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=100), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_index("keys_tenant", "keys", ["tenant"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("attempt_id", sa.String(length=80), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("worker_id", sa.String(length=200), nullable=False),
        sa.Column("gpu_type", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("closed_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("metered_ms", sa.BigInteger(), nullable=False),
        sa.Column("billed_ms", sa.BigInteger(), nullable=False),
        sa.Column("rate_nanodollars_per_second", sa.BigInteger(), nullable=False),
        sa.Column("price_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("price_version", sa.String(length=64), nullable=False),
        sa.Column("waiver", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id"),
    )
    op.create_index("ledger_request_id", "ledger", ["request_id"], unique=False)
    op.create_index(
        "ledger_tenant_closed", "ledger", ["tenant", "closed_unix_ms", "attempt_id"], unique=False
    )
    op.create_table(
        "model_aliases",
        sa.Column("alias", sa.String(length=200), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("alias"),
    )
    op.create_index("model_aliases_model_id", "model_aliases", ["model_id"], unique=False)
    op.create_table(
        "model_versions",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("document_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "models",
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("registered_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model_id"),
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("model_version", sa.String(length=64), nullable=False),
        sa.Column("snapshot_digest", sa.String(length=64), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("input_json", sa.Text(), nullable=False),
        sa.Column("work_units", sa.Float(), nullable=False),
        sa.Column("submitted_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("deadline_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("worker_hint", sa.String(length=200), nullable=False),
        sa.Column("second_worth_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("price_cap_nanodollars", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("finished_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("cancel_requested", sa.Integer(), nullable=False),
        sa.Column("output_json", sa.Text(), nullable=False),
        sa.Column("end_proto", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("request_id"),
    )
    op.create_index("requests_finished", "requests", ["finished_unix_ms"], unique=False)
    op.create_index("requests_tenant_id", "requests", ["tenant", "request_id"], unique=False)
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("tenant_class", sa.String(length=32), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("created_unix_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant"),
    )


def downgrade() -> None:
    op.drop_table("tenants")
    op.drop_index("requests_tenant_id", table_name="requests")
    op.drop_index("requests_finished", table_name="requests")
    op.drop_table("requests")
    op.drop_table("models")
    op.drop_table("model_versions")
    op.drop_index("model_aliases_model_id", table_name="model_aliases")
    op.drop_table("model_aliases")
    op.drop_index("ledger_tenant_closed", table_name="ledger")
    op.drop_index("ledger_request_id", table_name="ledger")
    op.drop_table("ledger")
    op.drop_index("keys_tenant", table_name="keys")
    op.drop_table("keys")
    op.drop_index("idempotency_created", table_name="idempotency")
    op.drop_table("idempotency")
    op.drop_index("attempts_request_id", table_name="attempts")
    op.drop_index("attempts_ended", table_name="attempts")
    op.drop_table("attempts")
