"""Money and keys. Amounts are integer nano-dollars."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quickthaw.client.requests import RequestState


class BudgetSpan(StrEnum):
    """What a budget caps: each calendar month in UTC, or everything that was ever spent."""

    UNKNOWN = "unknown"
    MONTH = "month"
    TOTAL = "total"


class UsageDimension(StrEnum):
    """What lines of usage are told apart by; days are in UTC."""

    UNKNOWN = "unknown"
    MODEL = "model"
    GPU_TYPE = "gpu_type"
    KEY = "key"
    DAY = "day"


class Scope(StrEnum):
    """What a key may do."""

    UNKNOWN = "unknown"
    CALL = "call"
    ADMIN = "admin"
    WORKER = "worker"
    DEPLOY = "deploy"


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A closed meter: one finished attempt. Never changed."""

    attempt_id: str
    request_id: str
    tenant: str
    model: str
    worker_id: str
    gpu_type: str
    attempt: int
    outcome: RequestState
    closed_unix_ms: int
    metered_ms: int
    billed_ms: int
    rate_nanodollars_per_second: int
    price_nanodollars: int
    price_version: str
    waiver: str
    """Why it was not charged; empty if it was."""
    key_id: str = ""
    """The key that submitted the request."""
    unit: str = ""
    """`image`, `megapixel` or `video_second` where outputs are charged; empty where time is."""
    micro_units: int = 0
    """Millionths of the unit that were delivered."""
    unit_price_nanodollars: int = 0


@dataclass(frozen=True, slots=True)
class UsageLine:
    """The sum of a period. What lines are not told apart by is empty, as all is in a total."""

    model: str
    gpu_type: str
    requests: int
    """Distinct."""
    attempts: int
    metered_ms: int
    billed_ms: int
    price_nanodollars: int
    key_id: str = ""
    day: str = ""
    """`2026-11-23`, in UTC."""


@dataclass(frozen=True, slots=True)
class Usage:
    tenant: str
    lines: tuple[UsageLine, ...]
    total: UsageLine


@dataclass(frozen=True, slots=True)
class Price:
    gpu_type: str
    rate_nanodollars_per_second: int


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """A model's own price: a rate for all kinds of GPU (None if there is none) or by kind, or with
    a `unit` a price for each `image`, `megapixel` or `video_second`."""

    model: str
    rate_nanodollars_per_second: int | None
    rates: tuple[Price, ...]
    unit: str
    unit_price_nanodollars: int


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The price table in force. `dedicated` is of workers while they are reserved, where that
    differs."""

    version: str
    prices: tuple[Price, ...]
    models: tuple[ModelPrice, ...] = ()
    dedicated: tuple[Price, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays: a tenant, or one of its keys, which spends within its own and its tenant's limits.

    Amounts are integer nano-dollars; None where there is no such bound.
    """

    tenant: str
    key_id: str
    """Empty for the tenant's own account."""
    budget_nanodollars: int | None
    budget_span: BudgetSpan
    budget_used_nanodollars: int
    """Of the span."""
    credit_nanodollars: int | None
    """What is left of it; None if the account is not prepaid."""
    alert_percents: tuple[int, ...]
    """Shares of budget and credit that are told when they are used."""
    locked: bool
    """It takes on nothing new."""
    lock_reason: str
    spent_nanodollars: int
    """Ever."""
    month_spent_nanodollars: int
    month: str
    """The one under way, in UTC: `2026-11`."""
    held_nanodollars: int
    """For requests that have not ended."""
    available_nanodollars: int | None
    """What new requests may still take; below 0 if more was held or spent."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant of credit. `deduplicated`: it had been given before and changed nothing."""

    account: Account
    grant_id: str
    deduplicated: bool


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold that was crossed."""

    tenant: str
    key_id: str
    kind: str
    """`budget` or `credit`."""
    percent: int
    used_nanodollars: int
    limit_nanodollars: int
    raised_unix_ms: int


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What the holder of a key may do at most; 0 and the empty tuple are no limit."""

    requests_per_minute: int = 0
    """As many at once, and again as time refills them evenly."""
    concurrent_requests: int = 0
    """That have not ended."""
    request_price_nanodollars: int = 0
    """Of one attempt."""
    models: tuple[str, ...] = ()
    """Catalog ids, or `owner/*`."""


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret, which nobody can read back."""

    key_id: str
    tenant: str
    scopes: tuple[Scope, ...]
    label: str
    created_unix_ms: int
    expires_unix_ms: int
    """0 for never."""
    revoked_unix_ms: int
    """0 if it is valid."""
    limits: KeyLimits = NO_LIMITS
    last_used_unix_ms: int = 0
    """To the minute or so; 0 for never."""
    rotated_unix_ms: int = 0
    """When it got the secret that it has; 0 if it has its first."""
    old_secret_until_unix_ms: int = 0
    """Until when the secret before is good too; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key with its secret, `qt_<key id>_<secret>`: the only time it is shown."""

    key: Key
    secret: str
