"""The tables, in SQLAlchemy Core. `migrations/` builds them; a test compares the two.

Money is integer nano-dollars and time integer milliseconds, so every such column is a BigInteger.
A moment that has not come is 0.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

tenants = Table(
    "tenants",
    metadata,
    Column("tenant", String(64), primary_key=True),
    # Label of the money metrics: few values, because tenants are many.
    Column("tenant_class", String(32), nullable=False),
    Column("weight", Float, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    # Space-separated names of the scopes, sorted.
    Column("scopes", String(64), nullable=False),
    Column("label", String(100), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("expires_unix_ms", BigInteger, nullable=False),
    Column("revoked_unix_ms", BigInteger, nullable=False),
    Index("keys_tenant", "tenant"),
)

# What a model was at some time. Rows are never changed, because requests refer to them.
model_versions = Table(
    "model_versions",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("model_id", String(200), nullable=False),
    Column("document_json", Text, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("model_id", String(200), primary_key=True),
    Column("version", String(64), nullable=False),
    Column("registered_unix_ms", BigInteger, nullable=False),
)

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("alias", String(200), primary_key=True),
    Column("model_id", String(200), nullable=False),
    Index("model_aliases_model_id", "model_id"),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("model_id", String(200), nullable=False),
    Column("model_version", String(64), nullable=False),
    Column("snapshot_digest", String(64), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("input_json", Text, nullable=False),
    Column("work_units", Float, nullable=False),
    Column("submitted_unix_ms", BigInteger, nullable=False),
    Column("deadline_unix_ms", BigInteger, nullable=False),
    Column("worker_hint", String(200), nullable=False),
    Column("second_worth_nanodollars", BigInteger, nullable=False),
    Column("price_cap_nanodollars", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("finished_unix_ms", BigInteger, nullable=False),
    # 1 once somebody has asked for it, so that a later start still knows.
    Column("cancel_requested", Integer, nullable=False),
    Column("output_json", Text, nullable=False),
    # A serialized quickthaw.v1.Request with the artifacts, failure and receipt alone: written once,
    # read whole, and as compatible over releases as the wire is. Money is in `ledger` for queries.
    Column("end_proto", LargeBinary, nullable=False),
    Index("requests_tenant_id", "tenant", "request_id"),
    # Recovery reads the few that have not ended (finished_unix_ms = 0) among the many that have.
    Index("requests_finished", "finished_unix_ms"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", String(80), primary_key=True),
    Column("request_id", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker_id", String(200), nullable=False),
    Column("incarnation", String(64), nullable=False),
    Column("gpu_type", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("rate_nanodollars_per_second", BigInteger, nullable=False),
    Column("price_version", String(64), nullable=False),
    Column("placed_unix_ms", BigInteger, nullable=False),
    Column("loading_unix_ms", BigInteger, nullable=False),
    Column("started_unix_ms", BigInteger, nullable=False),
    Column("load_ms", BigInteger, nullable=False),
    # As in quickthaw.v1.Tier; 0 while not known.
    Column("start_tier", Integer, nullable=False),
    # As of the last acknowledged heartbeat while open; final once ended.
    Column("metered_ms", BigInteger, nullable=False),
    Column("ended_unix_ms", BigInteger, nullable=False),
    # One line for the receipt: why this worker.
    Column("placement", Text, nullable=False),
    Index("attempts_request_id", "request_id"),
    Index("attempts_ended", "ended_unix_ms"),
)

ledger = Table(
    "ledger",
    metadata,
    # The key absorbs replays: an attempt is billed once whatever crashes.
    Column("attempt_id", String(80), primary_key=True),
    Column("request_id", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("model_id", String(200), nullable=False),
    Column("worker_id", String(200), nullable=False),
    Column("gpu_type", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("closed_unix_ms", BigInteger, nullable=False),
    Column("metered_ms", BigInteger, nullable=False),
    Column("billed_ms", BigInteger, nullable=False),
    Column("rate_nanodollars_per_second", BigInteger, nullable=False),
    Column("price_nanodollars", BigInteger, nullable=False),
    Column("price_version", String(64), nullable=False),
    Column("waiver", String(64), nullable=False),
    Index("ledger_tenant_closed", "tenant", "closed_unix_ms", "attempt_id"),
    Index("ledger_request_id", "request_id"),
)

# What operators asked of workers; a worker that nothing is asked of has no row.
worker_marks = Table(
    "worker_marks",
    metadata,
    Column("worker_id", String(200), primary_key=True),
    Column("cordoned", Integer, nullable=False),
    Column("draining", Integer, nullable=False),
    # With `draining`: exit when nothing is left to run.
    Column("stop", Integer, nullable=False),
    # The process that drains; empty for none.
    Column("incarnation", String(64), nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("idempotency_key", String(128), primary_key=True),
    Column("request_id", String(64), nullable=False),
    # SHA-256 of what was asked for: the same key for something else is the caller's mistake.
    Column("fingerprint", String(64), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Index("idempotency_created", "created_unix_ms"),
)
