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
    # A JSON object of the limits that are set, by name: read and written whole.
    Column("limits_json", Text, nullable=False, server_default="{}"),
    # Written now and then, so up to some minutes behind.
    Column("last_used_unix_ms", BigInteger, nullable=False, server_default="0"),
    Column("rotated_unix_ms", BigInteger, nullable=False, server_default="0"),
    # The secret before the last rotation, good until then; empty for none.
    Column("old_secret_sha256", String(64), nullable=False, server_default=""),
    Column("old_secret_until_unix_ms", BigInteger, nullable=False, server_default="0"),
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

# What a model of the catalog has been, by numbers for people; gone with the model.
model_releases = Table(
    "model_releases",
    metadata,
    Column("model_id", String(200), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("registered_unix_ms", BigInteger, nullable=False),
    Index("model_releases_number", "model_id", "number", unique=True),
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

# How a model is served; one for which nothing was set has no row.
endpoints = Table(
    "endpoints",
    metadata,
    Column("model_id", String(200), primary_key=True),
    Column("visibility", String(16), nullable=False),
    Column("owner_tenant", String(64), nullable=False),
    Column("min_replicas", Integer, nullable=False),
    Column("max_replicas", Integer, nullable=False),
    Column("buffer", Integer, nullable=False),
    Column("scale_up_delay_ms", BigInteger, nullable=False),
    Column("scale_down_delay_ms", BigInteger, nullable=False),
    Column("keep_alive_ms", BigInteger, nullable=False),
    Column("concurrency_max", Integer, nullable=False),
    Column("reserved_workers", Integer, nullable=False),
    # A JSON object of names and values.
    Column("worker_labels_json", Text, nullable=False),
)

# Versions of models that take no requests, because they failed everywhere.
quarantines = Table(
    "quarantines",
    metadata,
    Column("model_id", String(200), primary_key=True),
    Column("snapshot_digest", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
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
    Column("start_deadline_unix_ms", BigInteger, nullable=False),
    Column("attempts_max", Integer, nullable=False),
    # The key that submitted it; empty for requests of releases that did not note it.
    Column("key_id", String(32), nullable=False, server_default=""),
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
    # What is sold instead of time (`pricing.Unit`), empty for time; fixed with the rate.
    Column("unit", String(16), nullable=False, server_default=""),
    Column("unit_price_nanodollars", BigInteger, nullable=False, server_default="0"),
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
    Column("key_id", String(32), nullable=False, server_default=""),
    # Where outputs are charged: of what, how many millionths, at what price for one.
    Column("unit", String(16), nullable=False, server_default=""),
    Column("micro_units", BigInteger, nullable=False, server_default="0"),
    Column("unit_price_nanodollars", BigInteger, nullable=False, server_default="0"),
    Index("ledger_tenant_closed", "tenant", "closed_unix_ms", "attempt_id"),
    Index("ledger_request_id", "request_id"),
)

# Who pays: a tenant, or a key of one, whose limits lie inside the tenant's. A row for each that
# ever spent something or was given a limit. Amounts are what the ledger's lines say: a line and the
# accounts that it changes are one transaction, and the values are absolute, so replays absorb.
accounts = Table(
    "accounts",
    metadata,
    # `TENANT`, or `TENANT/KEY_ID`.
    Column("account", String(100), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(32), nullable=False),
    # -1 for no budget.
    Column("budget_nanodollars", BigInteger, nullable=False),
    # `month` or `total`.
    Column("budget_span", String(8), nullable=False),
    # Space-separated percentages, rising.
    Column("alert_percents", String(64), nullable=False),
    # 1 while it pays for nothing new, and why.
    Column("locked", Integer, nullable=False),
    Column("lock_reason", String(200), nullable=False),
    # 1 if it can spend no more than its credit; the credit may be below 0 by what ran on.
    Column("prepaid", Integer, nullable=False),
    Column("credit_nanodollars", BigInteger, nullable=False),
    # The credit right after the last grant: what thresholds are shares of.
    Column("credit_full_nanodollars", BigInteger, nullable=False),
    Column("spent_nanodollars", BigInteger, nullable=False),
    # `2026-11`, in UTC, and what was spent in it.
    Column("month", String(7), nullable=False),
    Column("month_spent_nanodollars", BigInteger, nullable=False),
    # The highest thresholds that were told already.
    Column("budget_alerted_percent", Integer, nullable=False),
    Column("credit_alerted_percent", Integer, nullable=False),
    Index("accounts_tenant", "tenant"),
)

# Credits given. The id is the giver's, so that a repeated call gives once.
credit_grants = Table(
    "credit_grants",
    metadata,
    Column("grant_id", String(128), primary_key=True),
    Column("account", String(100), nullable=False),
    Column("amount_nanodollars", BigInteger, nullable=False),
    Column("note", String(200), nullable=False),
    Column("granted_unix_ms", BigInteger, nullable=False),
    Index("credit_grants_account", "account", "granted_unix_ms"),
)

# A threshold that was crossed. The key says which and when, so it is told once.
budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("alert_id", String(160), primary_key=True),
    Column("account", String(100), nullable=False),
    Column("tenant", String(64), nullable=False),
    # `budget` or `credit`.
    Column("kind", String(8), nullable=False),
    Column("percent", Integer, nullable=False),
    Column("used_nanodollars", BigInteger, nullable=False),
    Column("limit_nanodollars", BigInteger, nullable=False),
    Column("raised_unix_ms", BigInteger, nullable=False),
    Index("budget_alerts_tenant", "tenant", "raised_unix_ms"),
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

# Whom to tell of a request's end: see `webhooks.py`.
webhooks = Table(
    "webhooks",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("dialect", String(16), nullable=False),
    # Space-separated words of the caller's, for the gateway.
    Column("events", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_unix_ms", BigInteger, nullable=False),
    Column("lease_id", String(64), nullable=False),
    Column("lease_until_unix_ms", BigInteger, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    # A JSON list of the newest attempts, read and written whole.
    Column("history_json", Text, nullable=False),
    Index("webhooks_due", "state", "due_unix_ms"),
    Index("webhooks_tenant", "tenant", "request_id"),
)

# What tenants bring to be packed: see `deployments.py`.
deployments = Table(
    "deployments",
    metadata,
    Column("deployment_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    # Before which nobody leases it: its next try, or the end of its lease.
    Column("due_unix_ms", BigInteger, nullable=False),
    # The packer's that has it; empty for none.
    Column("lease_id", String(64), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("updated_unix_ms", BigInteger, nullable=False),
    # 0 while it is open.
    Column("finished_unix_ms", BigInteger, nullable=False),
    # What was asked for, and what became of it: JSON objects, read and written whole.
    Column("spec_json", Text, nullable=False),
    Column("progress_json", Text, nullable=False),
    Index("deployments_open", "finished_unix_ms", "due_unix_ms"),
    Index("deployments_tenant", "tenant", "deployment_id"),
)

# What deliveries are signed with. They are here and not with a gateway because all gateways sign
# with the same ones, and because they are worth no more than the results beside them.
signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(32), primary_key=True),
    # `ed25519`, or `hmac` for the one secret that those of the tenants are derived from.
    Column("kind", String(16), nullable=False),
    Column("private_key", LargeBinary, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
)

# One row: how many schedulers have begun here. See `locks.SessionLock`.
leader = Table("leader", metadata, Column("generation", BigInteger, nullable=False))

# Requests whose input and output go so long after their end; a row goes with them.
short_lived = Table(
    "short_lived",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("kept_ms", BigInteger, nullable=False),
)

# The same for the files that requests made.
short_lived_files = Table(
    "short_lived_files",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("kept_ms", BigInteger, nullable=False),
)

# Why requests ran where they did; the newest, as many as a setting says.
explanations = Table(
    "explanations",
    metadata,
    Column("request_id", String(64), primary_key=True),
    # A serialized quickthaw.v1.ExplainResponse, compressed by zlib: written once, read whole.
    Column("body", LargeBinary, nullable=False),
)
