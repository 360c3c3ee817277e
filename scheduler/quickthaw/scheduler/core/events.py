"""What happens to the core. Each is a fact; none can be refused.

The shell feeds them one at a time, in the order in which they happened, and drops what a worker's
older stream still says once a newer Hello of that worker has been fed. Objects named `payload` pass
through the core untouched: the shell gets them back in the command that they lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from quickthaw.scheduler.core.accounts import Account, AccountChange, AccountId
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    NO_OUTPUTS,
    AttemptId,
    AttemptRecord,
    EndpointSettings,
    Failure,
    Job,
    ModelId,
    ModelSpec,
    Outcome,
    OutputUnits,
    RequestId,
    Residency,
    Tier,
    WorkerId,
    WorkerMark,
    WorkerSpec,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.sanctions import Quarantine


class RequestJournalled(NamedTuple):
    """A new request is durable and so is accepted. Check `Machine.admission_error` before."""

    job: Job


@dataclass(frozen=True, slots=True)
class RequestRecovered:
    """A request that had not ended when an earlier scheduler stopped.

    Feed them in the order of submission, before any worker's event. `attempts` is the highest
    number that the journal knows (0 for none), `open_attempt` the one without an end, `lost_on` the
    workers on which ended attempts of this request were lost, `killed_on` those that it was loaded
    or run on then.
    """

    job: Job
    attempts: int = 0
    open_attempt: AttemptRecord | None = None
    open_state: RequestState = RequestState.PLACED
    lost_on: frozenset[WorkerId] = frozenset()
    killed_on: tuple[WorkerId, ...] = ()
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class MarkRecovered:
    """What an operator had asked of a worker before an earlier scheduler stopped. Feed them before
    any worker's event."""

    mark: WorkerMark


@dataclass(frozen=True, slots=True)
class EndpointChanged:
    """How a model is served from now on, durably; None for the defaults. Fed at the start for
    every endpoint that the store has, before any request."""

    model: ModelId
    settings: EndpointSettings | None
    spec: ModelSpec | None = None
    """The version that is registered, if it is known."""


@dataclass(frozen=True, slots=True)
class QuarantineRecovered:
    """What an earlier scheduler had quarantined. Feed them before any request."""

    quarantine: Quarantine


@dataclass(frozen=True, slots=True)
class QuarantineReleased:
    """An operator lets the model run again."""

    model: ModelId


@dataclass(frozen=True, slots=True)
class AccountRecovered:
    """An account as an earlier scheduler left it. Feed them before any request."""

    account: Account


@dataclass(frozen=True, slots=True)
class AccountChanged:
    """An operator has changed what an account may spend."""

    account_id: AccountId
    change: AccountChange


@dataclass(frozen=True, slots=True)
class PricesChanged:
    """Another price table is in force."""

    prices: PriceTable


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody wants the request to stop. Unknown or ended requests are left as they are."""

    request_id: RequestId
    detail: str = "cancelled by the caller"


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One attempt as its worker sees it. `ended`: the end was not acknowledged; it follows."""

    attempt_id: AttemptId
    request_id: RequestId
    state: RequestState
    metered_ms: int = 0

    @property
    def ended(self) -> bool:
        return self.state.terminal


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """A worker's stream is up. `residency` and `attempts` are complete."""

    spec: WorkerSpec
    residency: tuple[Residency, ...] = ()
    attempts: tuple[AttemptReport, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerDisconnected:
    """The worker's current stream broke; it has until its lease ends to come back."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerGoodbye:
    """The worker left on purpose."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat:
    worker_id: WorkerId
    sequence: int
    attempts: tuple[AttemptReport, ...] = ()


@dataclass(frozen=True, slots=True)
class ResidencyChanged:
    worker_id: WorkerId
    added: tuple[Residency, ...] = ()
    removed: tuple[Residency, ...] = ()


class AttemptLoading(NamedTuple):
    worker_id: WorkerId
    attempt_id: AttemptId


class AttemptRunning(NamedTuple):
    """The model is ready and the run begins: the meter opens."""

    worker_id: WorkerId
    attempt_id: AttemptId
    load_ms: int = 0
    start_tier: Tier | None = None


class AttemptFinished(NamedTuple):
    """May come more than once; `metered_ms` is the worker's monotonic span of the run, `outputs`
    what it delivered."""

    worker_id: WorkerId
    attempt_id: AttemptId
    request_id: RequestId
    outcome: Outcome
    metered_ms: int
    load_ms: int = 0
    start_tier: Tier | None = None
    failure: Failure | None = None
    payload: object = None
    outputs: OutputUnits = NO_OUTPUTS


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """No new requests for the worker; with `stop` it exits when nothing is left to run."""

    worker_id: WorkerId
    stop: bool = False


@dataclass(frozen=True, slots=True)
class CordonRequested:
    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class UncordonRequested:
    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Feed one at `Machine.next_timer_ms()`, after what the sockets hold: a
    heartbeat that waits unread behind a Tick would count as silence."""


Event: TypeAlias = (
    RequestJournalled
    | RequestRecovered
    | MarkRecovered
    | EndpointChanged
    | QuarantineRecovered
    | QuarantineReleased
    | AccountRecovered
    | AccountChanged
    | PricesChanged
    | CancelRequested
    | WorkerHello
    | WorkerDisconnected
    | WorkerGoodbye
    | WorkerHeartbeat
    | ResidencyChanged
    | AttemptLoading
    | AttemptRunning
    | AttemptFinished
    | DrainRequested
    | CordonRequested
    | UncordonRequested
    | Tick
)
