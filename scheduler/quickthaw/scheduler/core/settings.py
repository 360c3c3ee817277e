"""The numbers by which the core decides: every weight and every bound of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """Weights and bounds of `placement`.

    The three weights turn everything into seconds: `load_weight` (mu) charges load seconds to the
    one who causes them, for the worker is lost to others meanwhile; money is divided by what a
    second is worth to the caller (lambda is its inverse); `eviction_weight` (nu) charges for what
    others will have to load again.
    """

    load_weight: float = 1.0
    eviction_weight: float = 1.0
    second_worth_nanodollars: int = 3_000_000
    """When the caller names none: three tenths of a cent, of the order of what a second of a large
    GPU costs. In simulated fleets (docs/simulate.md) ten times as much shortens the tail by a tenth
    and costs a tenth more; with this much, p99 and cost are both lower than any other policy's."""
    hint_slack_seconds: float = 0.25
    """A hinted worker is taken if it finishes at most this much after the best."""
    resident_candidates: int = 8
    """Workers looked at because they hold something of the model."""
    idle_candidates: int = 2
    """Least loaded workers looked at in each class of equal price, type and size."""
    explain_workers_max: int = 32
    """Fleets up to this size get a reason for every worker, not only for those looked at."""
    few_workers_max: int = 16
    """In fleets up to this size workers are scarce: another fast one is not soon free. They are
    used up to the last second then: a load behind a run counts only as far as it outlasts the run,
    and a request may wait for any full worker, not only for one that has its model. In simulated
    fleets (docs/simulate.md) of 8 that takes up to 6 % off the cost and up to 29 % off the p99 of
    traffic with peaks, of 16 less (steady traffic costs 1 % more there)."""
    scarce_idle_share: float = 0.3
    """In any fleet workers are scarce while less than this share of them holds nothing. In
    simulated fleets of 50 at a load of 0.8 that takes a third off the p99."""
    queue_ahead: int = 3
    """Attempts a worker may hold beyond those that run: they load meanwhile, or run beside a load.
    With a single one a busy worker idles whenever both that it holds must load; with two there is
    often no place for one that could run beside a load (docs/simulate.md)."""
    queue_ahead_more: int = 1
    """So many more while workers are scarce. What is decided later is decided better where an idle
    worker may be found meanwhile; where none is, it keeps those that there are from waiting."""


@dataclass(frozen=True, slots=True)
class CrashPolicy:
    """When a worker that dies again and again is left alone for a while, and for how long: the
    pause begins at `pause_ms` and doubles with each further death, up to `pause_ms_max`."""

    deaths: int = 4
    """That many within the window are too many."""
    window_ms: int = 600_000
    pause_ms: int = 5_000
    pause_ms_max: int = 300_000


@dataclass(frozen=True, slots=True)
class SupplyPolicy:
    """Weights and bounds of `supply`, the slow planner. Without an interval it never runs."""

    interval_ms: int = 0
    utilisation: float = 0.7
    """How busy a copy may be before another one is wanted."""
    load_least: float = 0.02
    """GPU-seconds a second below which traffic alone wants no copy."""
    regular_uses: float = 6.0
    """A model with more uses than that in ten minutes gets a second copy, in a fleet of three."""
    copies_share: float = 1 / 3
    """Of the ready workers, which copies of one model may take by its traffic."""
    keep_alive_ms: int = 600_000
    """For models whose pauses say nothing."""
    scale_down_delay_ms: int = 60_000
    """For endpoints that set none, and for the fleet."""
    room_share: float = 0.25
    """A worker with less of its VRAM free than that gives up copies that are not worth keeping."""
    prefetches_max: int = 4
    """Started in one run."""
    prefetch_ms_max: int = 60_000
    """After that a prefetch that has not been reported is not counted on any more."""
    models_max: int = 256
    workers_max: int = 128
    """Looked at in one run; the others have their turn in the next ones."""
    demand_models_max: int = 20_000
    """Models whose demand is remembered."""
    backlog_seconds: float = 30.0
    """More workers are wanted until what waits would be done within that."""


@dataclass(frozen=True, slots=True)
class CoreSettings:
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    max_attempts: int = 3
    lease_ms: int = 15_000
    """Silence after which a worker has lost what it held."""
    heartbeat_interval_ms: int = 2_000
    meter_lease_ms: int = 2_000
    """How much run time a limited account pays for in advance, beyond what the request was expected
    to take. More than a heartbeat's interval, or runs would stop before they hear of more."""
    queue_max: int = 10_000
    queue_max_per_tenant: int = 2_000
    queue_retry_seconds: float = 2.0
    """What a caller who finds the queue full is told to wait."""
    priority_head_start_ms: int = 600_000
    """Inside a tenant, one step of priority is worth this much earlier submission: high priority
    goes first, and yet a low one waits at most this much longer for it."""
    tenant_weights: dict[str, float] = field(default_factory=dict)
    """Shares of the fleet under contention; 1 for who is not named."""
    tenant_concurrency_max: int = 0
    """Attempts of one tenant that may be open at once, 0 for no limit; the others queue."""
    tenant_concurrency: dict[str, int] = field(default_factory=dict)
    """The same for single tenants, in place of that."""
    look_ahead: int = 16
    """Requests that a planning pass may find no worker for before it gives up."""
    look_ahead_visits: int = 256
    """Requests that a planning pass may visit."""
    collation_max: int = 16
    """Requests that a planning pass may place out of turn because their model is resident."""
    collation_lead_ms: float = 30_000.0
    """GPU-milliseconds, at the rate of the worker in question and by its weight, that a tenant may
    be ahead of others by such placements."""
    bypass_max: int = 16
    """Later requests that may be placed before an unplaceable one; then it reserves a worker."""
    wait_limit_ms: int = 60_000
    """How long after its turn a request may be passed over or give way; then it reserves a worker,
    however few went before it."""
    overstay_share: float = 0.5
    """A run overstays when it has taken so much longer, of what was expected of it ..."""
    overstay_least_ms: int = 1_000
    """... and at least this much. Then what waits behind it may move to another worker."""
    moves_max: int = 4
    """How often a request may be moved so."""
    queue_position_exact_max: int = 64
    """Positions up to this one are exact; farther back they are estimated."""
    decisions_max: int = 1_000
    """Requests whose placement decisions are remembered."""
    worker_marks_max: int = 1_000
    """Cordons and drains that are remembered of workers, those that are away included."""
    poison_kills: int = 3
    """Worker processes that may end under one request; then it is failed for that."""
    quarantine_kills: int = 6
    """Worker processes that may end under requests for one version of a model with no run of it in
    between; then that version takes no more requests."""
    quarantine_load_failures: int = 3
    """Loads of one version that may fail in a row, if no ready worker is left that has not failed;
    then that version takes no more requests."""
    reservation_span_ms: int = 60_000
    """A reserved worker's time is billed in spans of about that."""
    suspects_max: int = 1_000
    """Versions of models, and workers, of which failures and deaths are remembered."""
    crash: CrashPolicy = field(default_factory=CrashPolicy)
    supply: SupplyPolicy = field(default_factory=SupplyPolicy)
    estimates_max: int = 20_000
    """(worker, tier) and (model, GPU) pairs whose speeds are remembered."""
