"""Money and keys. Amounts are integer nano-dollars."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quickthaw.client.requests import RequestState


class Scope(StrEnum):
    """What a key may do."""

    UNKNOWN = "unknown"
    CALL = "call"
    ADMIN = "admin"
    WORKER = "worker"


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
    """Why metered time was not charged; empty if it was."""


@dataclass(frozen=True, slots=True)
class UsageLine:
    """The sum of a period for one model on one kind of GPU; both are empty in a total."""

    model: str
    gpu_type: str
    requests: int
    """Distinct."""
    attempts: int
    metered_ms: int
    billed_ms: int
    price_nanodollars: int


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
class PriceTable:
    """The price table in force."""

    version: str
    prices: tuple[Price, ...]


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


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key with its secret, `qt_<key id>_<secret>`: the only time it is shown."""

    key: Key
    secret: str
