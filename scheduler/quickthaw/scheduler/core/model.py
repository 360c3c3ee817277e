"""What the core's modules pass round: jobs, attempts, workers as they report themselves, money.

Times named `_ms` without further words are unix milliseconds of the shell's clock and never go
back; spans are named for what they measure. Sizes are bytes on the device, money nano-dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple, NewType

from quickthaw.scheduler.core.records import record

RequestId = NewType("RequestId", str)
AttemptId = NewType("AttemptId", str)
WorkerId = NewType("WorkerId", str)
TenantId = NewType("TenantId", str)
ModelId = NewType("ModelId", str)
Digest = NewType("Digest", str)


class Tier(IntEnum):
    """Where a component's bytes are; a smaller number is nearer. Numbers as on the wire."""

    VRAM = 1
    PINNED = 2
    DISK = 3
    REMOTE = 4


class Priority(IntEnum):
    LOW = 1
    NORMAL = 2
    HIGH = 3


class WorkerState(Enum):
    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DISCONNECTED = "disconnected"
    BACKING_OFF = "backing_off"


@dataclass(frozen=True, slots=True)
class WorkerMark:
    """What an operator wants of a worker, for as long as it takes, restarts of ours included. A
    cordon is of whichever process has the id; a drain is of one, `incarnation`."""

    worker_id: WorkerId
    cordoned: bool = False
    draining: bool = False
    stop: bool = False
    incarnation: str = ""

    @property
    def empty(self) -> bool:
        return not (self.cordoned or self.draining)


class Outcome(Enum):
    """How a worker says an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Component:
    """One content-addressed file of a model: the unit of residency."""

    digest: Digest
    size_bytes: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as it was when the request was submitted; a later registration does not change it.

    `components` are in load order. `working_bytes` is what one run needs beyond the weights.
    `sizes` has the distinct components, largest first, and `weight_bytes` their sum: both are read
    for every candidate of every placement.
    """

    id: ModelId
    family: str
    snapshot_digest: str
    snapshot_uri: str
    components: tuple[Component, ...]
    working_bytes: int
    sizes: Mapping[Digest, int] = field(init=False, repr=False, compare=False)
    weight_bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        largest_first = sorted(self.components, key=lambda part: (-part.size_bytes, part.digest))
        sizes = {part.digest: part.size_bytes for part in largest_first}
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "weight_bytes", sum(sizes.values()))


class Visibility(Enum):
    """Who may call an endpoint, and what it runs on. Private and dedicated ones have an owner."""

    SHARED = "shared"
    PRIVATE = "private"
    DEDICATED = "dedicated"


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How a model is served; the defaults are those of a model for which nothing was set.

    `max_replicas` and `concurrency_max` are 0 for no limit, `keep_alive_ms` is 0 for what the
    model's own pauses say. `reserved_workers` and `worker_labels` are of dedicated endpoints.
    """

    visibility: Visibility = Visibility.SHARED
    owner_tenant: str = ""
    min_replicas: int = 0
    max_replicas: int = 0
    buffer: int = 0
    scale_up_delay_ms: int = 0
    scale_down_delay_ms: int = 0
    keep_alive_ms: int = 0
    concurrency_max: int = 0
    reserved_workers: int = 0
    worker_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def dedicated(self) -> bool:
        return self.visibility is Visibility.DEDICATED

    def visible_to(self, tenant: str) -> bool:
        return self.visibility is Visibility.SHARED or self.owner_tenant == tenant


DEFAULT_ENDPOINT = EndpointSettings()


class OutputUnits(NamedTuple):
    """How much output a request asks for, or got; what models that are sold by output charge."""

    images: int = 0
    pixels: int = 0
    """Of all images, or of one frame of a video."""
    video_ms: int = 0


NO_OUTPUTS = OutputUnits()


@record
class Job:
    """One accepted request, as far as deciding needs it; the shell keeps the input itself.

    `work_units` scales the run time of one model (steps x megapixels x images; 1 if unknown).
    `second_worth_nanodollars` is 0 for the default; cap and deadline are 0 and hint and `key_id`,
    the key that submitted it, empty for none. `outputs` is what the input asks for.
    """

    request_id: RequestId
    tenant: TenantId
    model: ModelSpec
    submitted_ms: int
    priority: Priority = Priority.NORMAL
    work_units: float = 1.0
    deadline_ms: int = 0
    worker_hint: str = ""
    second_worth_nanodollars: int = 0
    price_cap_nanodollars: int = 0
    start_deadline_ms: int = 0
    """When the first attempt must have been placed; 0 for any time."""
    attempts_max: int = 0
    """Workers that may be lost under it; 0 for the scheduler's own bound."""
    key_id: str = ""
    batch_key: str = ""
    """Jobs for one model with equal keys may run as one batch; empty for none."""
    outputs: OutputUnits = NO_OUTPUTS
    ahead: bool = False
    """The next input of a realtime session that holds a worker: it goes before those that wait."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something did not succeed; `reason` is a leaf of `quickthaw.wire.errors`."""

    reason: str
    message: str
    retryable: bool = False


class AttemptRecord(NamedTuple):
    """One try of a request on one worker, as it is journalled.

    Rate and price version are fixed when the attempt is placed. `metered_ms` is the run time that
    the last heartbeat reported; `started_ms` is when the run began, 0 before that. With a `unit`
    (see `pricing.Unit`, empty for none) outputs are charged instead of time.
    """

    attempt_id: AttemptId
    request_id: RequestId
    number: int
    worker_id: WorkerId
    incarnation: str
    gpu_type: str
    rate_nanodollars_per_second: int
    price_version: str
    placed_ms: int
    loading_ms: int = 0
    started_ms: int = 0
    load_ms: int = 0
    metered_ms: int = 0
    start_tier: Tier | None = None
    placement: str = ""
    unit: str = ""
    unit_price_nanodollars: int = 0


def attempt_id_of(request_id: RequestId, number: int) -> AttemptId:
    return AttemptId(f"{request_id}.{number}")


def attempt_number(request_id: RequestId, attempt_id: AttemptId) -> int | None:
    """The number in an attempt's id, or None if the id is not of this request."""
    prefix, _, number = attempt_id.rpartition(".")
    return int(number) if prefix == request_id and number.isdecimal() else None


class TierSpeed(NamedTuple):
    """What a worker measured: reading `n` bytes takes `latency_seconds + n / bytes_per_second`."""

    bytes_per_second: float
    latency_seconds: float


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker says of itself when it attaches; fixed for one incarnation."""

    worker_id: WorkerId
    incarnation: str
    gpu_type: str
    vram_bytes: int
    pinned_bytes: int = 0
    concurrency: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    tier_speeds: Mapping[Tier, TierSpeed] = field(default_factory=dict)
    peer_url: str = ""
    """Where other workers may read its components; empty for nowhere."""
    peer_token: str = field(default="", repr=False)
    """What they must show there; for workers only, and in no log."""
    batch_max: int = 1
    """Attempts that it runs as one batch, of models of these families."""
    batch_families: frozenset[str] = frozenset()


class Residency(NamedTuple):
    """One component in one tier of one worker; a component may be in several."""

    digest: Digest
    tier: Tier
    size_bytes: int


class Estimate(NamedTuple):
    """A quantity that is not known yet. `samples` is what it was learned from, 0 for a prior."""

    p50: float
    p95: float
    samples: int = 0


class LedgerLine(NamedTuple):
    """A closed meter. One for each ended attempt; `attempt_id` is its key, so replays absorb.

    `unit` is empty where time is charged; else `micro_units` (millionths of it) were delivered. A
    span for which a worker was reserved is a line too: `request_id` is empty, the model's endpoint
    and the span are its key.
    """

    attempt_id: AttemptId
    request_id: RequestId
    tenant: TenantId
    model: ModelId
    worker_id: WorkerId
    gpu_type: str
    attempt: int
    outcome: Outcome
    closed_ms: int
    metered_ms: int
    billed_ms: int
    rate_nanodollars_per_second: int
    price_nanodollars: int
    price_version: str
    waiver: str
    key_id: str = ""
    unit: str = ""
    micro_units: int = 0
    unit_price_nanodollars: int = 0


class Receipt(NamedTuple):
    """What a request cost and why it ran where it did; its money equals the last ledger line's.

    A request that ended before it was ever placed has an empty worker and no price.
    """

    request_id: RequestId
    model: ModelId
    attempts: int
    queue_ms: int
    worker_id: str = ""
    gpu_type: str = ""
    load_ms: int = 0
    run_ms: int = 0
    billed_ms: int = 0
    price_nanodollars: int = 0
    rate_nanodollars_per_second: int = 0
    price_version: str = ""
    start_tier: Tier | None = None
    placement: str = ""
    waiver: str = ""
    unit: str = ""
    micro_units: int = 0
    unit_price_nanodollars: int = 0


@dataclass(frozen=True, slots=True)
class Quote:
    """Where a request would go if it were submitted now. Start is from now to the load's start."""

    worker_id: WorkerId
    start_tier: Tier
    start_seconds: Estimate
    load_seconds: Estimate
    run_seconds: Estimate
    price_nanodollars: Estimate
    rate_nanodollars_per_second: int
    price_version: str
