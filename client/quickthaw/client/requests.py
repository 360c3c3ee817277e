"""What a request is, what happens to it, and what it cost: the values a caller works with.

Units are in the names, as on the wire: `_ms` and `_seconds` are spans, `_unix_ms` are times of day
in milliseconds since 1970-01-01 UTC, `_nanodollars` is 1e-9 US dollars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from quickthaw.wire.errors import FieldViolation, QuickthawError, error_for_reason

JsonValue: TypeAlias = (
    "str | int | float | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
JsonObject: TypeAlias = Mapping[str, JsonValue]


class Tier(StrEnum):
    """Where a component's bytes are, nearest first."""

    UNKNOWN = "unknown"
    VRAM = "vram"
    PINNED = "pinned"
    DISK = "disk"
    REMOTE = "remote"


class RequestState(StrEnum):
    """The life of a request; the last three are terminal."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    PLACED = "placed"
    LOADING = "loading"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (RequestState.SUCCEEDED, RequestState.FAILED, RequestState.CANCELLED)


class Priority(StrEnum):
    """Order inside one tenant; it never reorders between tenants."""

    UNKNOWN = "unknown"
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request did not succeed. `reason` is a leaf of the tree in quickthaw.wire.errors."""

    reason: str
    message: str
    retryable: bool
    violations: tuple[FieldViolation, ...] = ()

    def to_error(self) -> QuickthawError:
        """The failure as the exception that it names."""
        error = error_for_reason(self.reason, self.message)
        error.violations = self.violations
        return error


@dataclass(frozen=True, slots=True)
class Artifact:
    """One output file. `Client.read_artifact` and `Client.save_artifact` fetch its bytes."""

    uri: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str
    """Lower-case hex."""
    width: int
    """Pixels; 0 for what has none."""
    height: int
    duration_ms: int = 0
    """Of a video or a sound; 0 for what has none."""


@dataclass(frozen=True, slots=True)
class ComponentLoad:
    """How one component came to the device for one attempt."""

    name: str
    digest: str
    size_bytes: int
    source: Tier
    """Where it was found; VRAM means that nothing was moved."""
    copier: str
    read_seconds: float
    copy_seconds: float
    why: str = ""
    """What was true that made it this copier; empty if nothing was moved."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Where a cold start's time went. The parts overlap and may exceed `total_seconds` together."""

    components: tuple[ComponentLoad, ...]
    manifest_seconds: float
    skeleton_seconds: float
    bytes_seconds: float
    bind_seconds: float
    total_seconds: float
    first_step_seconds: float
    compiled: str = ""
    """How much of the run was compiled code; empty if nothing was."""
    encode_seconds: float = 0.0
    """Of the load: the prompt was encoded while the rest was on its way."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request cost and why it ran where it did."""

    request_id: str
    model: str
    worker_id: str
    gpu_type: str
    queue_ms: int
    load_ms: int
    run_ms: int
    billed_ms: int
    price_nanodollars: int
    rate_nanodollars_per_second: int
    price_version: str
    attempts: int
    start_tier: Tier
    """The farthest tier that any component had to come from. VRAM is a warm start."""
    load: LoadReport | None
    """None if no attempt got as far as loading."""
    placement: str
    seed: int | None
    """The seed that was used, also when the caller named none."""
    waiver: str
    """Why it was not charged; empty if it was."""
    unit: str = ""
    """`image`, `megapixel` or `video_second` where outputs are charged; empty where time is."""
    micro_units: int = 0
    """Millionths of the unit that were delivered."""
    unit_price_nanodollars: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the journal has it."""

    request_id: str
    tenant: str
    model: str
    snapshot_digest: str
    priority: Priority
    state: RequestState
    input: JsonObject
    """With the model's defaults filled in."""
    submitted_unix_ms: int
    finished_unix_ms: int
    """0 while not terminal."""
    deadline_unix_ms: int
    """0 for none."""
    attempts: int
    queue_position: int
    """Requests ahead of it in the fair order; meaningful while QUEUED."""
    output: JsonObject
    artifacts: tuple[Artifact, ...]
    failure: Failure | None
    receipt: Receipt | None

    def raise_for_failure(self) -> Request:
        """The request itself, unless it failed or was cancelled.

        Raises the class of quickthaw.wire.errors that its failure names (RequestCancelled,
        DeadlineExpired, EngineFailed, AttemptsExhausted, ...), with the request's id in
        `metadata["request_id"]`.
        """
        if self.state not in (RequestState.FAILED, RequestState.CANCELLED):
            return self
        failure = self.failure or Failure(self.state.name, f"the request is {self.state}", False)
        error = failure.to_error()
        error.metadata["request_id"] = self.request_id
        raise error


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a submission: from now on the request ends exactly once."""

    request_id: str
    state: RequestState
    queue_position: int
    deduplicated: bool
    """The idempotency key matched an earlier request."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity that is not known yet."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Quote:
    """Where a request would go if it were submitted now, when it would start and what it costs."""

    worker_id: str
    start_tier: Tier
    start_seconds: Estimate
    """From now to the start of the load."""
    load_seconds: Estimate
    run_seconds: Estimate
    price_nanodollars: Estimate
    rate_nanodollars_per_second: int
    price_version: str
