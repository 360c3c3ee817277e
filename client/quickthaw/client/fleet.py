"""Workers, and the decisions that placed requests on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from quickthaw.client.requests import RequestState, Tier


class WorkerState(StrEnum):
    UNKNOWN = "unknown"
    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DISCONNECTED = "disconnected"
    BACKING_OFF = "backing_off"
    """Within its lease; may come back."""


@dataclass(frozen=True, slots=True)
class Residency:
    """One component in one tier of one worker."""

    digest: str
    tier: Tier
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """An attempt that a worker holds."""

    attempt_id: str
    request_id: str
    state: RequestState
    metered_ms: int


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process, as the scheduler knows it."""

    worker_id: str
    gpu_type: str
    state: WorkerState
    vram_bytes: int
    vram_used_bytes: int
    pinned_bytes: int
    pinned_used_bytes: int
    residency: tuple[Residency, ...]
    attempts: tuple[AttemptStatus, ...]
    labels: Mapping[str, str]
    attached_unix_ms: int
    last_heartbeat_unix_ms: int
    rate_nanodollars_per_second: int
    version: str
    resident_models: tuple[str, ...]
    """Catalog ids whose every component is in VRAM."""
    dedicated_to: str = ""
    """The one endpoint that it serves, while it is reserved for it."""
    recent_deaths: int = 0
    """Processes of this worker that died lately."""
    backing_off_until_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class EstimateCheck:
    """How often the scheduler's learned estimates were right: `kind` is `load` or `run`, `tested`
    how many there were, the others how many of these took no longer than the quantile."""

    kind: str
    tested: int
    within_p50: int
    within_p95: int


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """Every worker, and how many the traffic of late and the endpoints' settings need."""

    workers: tuple[Worker, ...]
    workers_wanted: int
    estimate_checks: tuple[EstimateCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could take the request: the terms of its score. The smallest sum wins."""

    worker_id: str
    score_seconds: float
    drain_seconds: float
    """Until the worker can begin."""
    load_seconds: float
    run_seconds: float
    load_term_seconds: float
    price_term_seconds: float
    eviction_term_seconds: float
    start_tier: Tier
    evict_digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A worker that could not take the request, and why."""

    worker_id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Why one attempt ran where it did; `chosen_worker_id` is empty if nobody could take it."""

    attempt: int
    decided_unix_ms: int
    chosen_worker_id: str
    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    tie_break: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every decision of one request, oldest first."""

    request_id: str
    decisions: tuple[Decision, ...]
