"""What happens to the attempts of a worker: all that `machine.AttemptMachine` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quickthaw.worker.attempts import (
    Assignment,
    Failure,
    LoadSummary,
    NoRoomYet,
    RunResult,
    Stopped,
    StoredArtifact,
)


@dataclass(frozen=True, slots=True)
class Assigned:
    """`refusal`: give it back at once with this, because the worker takes nothing more."""

    assignment: Assignment
    unix_ms: int
    refusal: Failure | None = None


@dataclass(frozen=True, slots=True)
class LoadReturned:
    attempt_id: str
    result: LoadSummary | NoRoomYet | Failure
    unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class LoadLasts:
    """The load that was begun last is not done at once: others may run meanwhile."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class TakenUp:
    """`load`: None if the model is not up, or is wanted otherwise."""

    attempt_id: str
    load: LoadSummary | None
    unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class RunReturned:
    """`run_id`: whose run this was, empty for its own; `over`: the run's thread has come back."""

    attempt_id: str
    result: RunResult | Stopped | Failure
    unix_ms: int = 0
    run_id: str = ""
    over: bool = True


@dataclass(frozen=True, slots=True)
class StoreReturned:
    attempt_id: str
    result: tuple[StoredArtifact, ...] | Failure


@dataclass(frozen=True, slots=True)
class CancelRequested:
    attempt_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class CancelAll:
    """The process is told to stop now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """These are another worker's now: stop them and say nothing more about them."""

    attempt_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeaseExpired:
    """The scheduler has been silent for a lease; it may have given the requests to others."""


@dataclass(frozen=True, slots=True)
class MeterExtended:
    """Until how many milliseconds of run time which attempts are paid for, as of now."""

    leases: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class MeterDue:
    """The time of `AttemptMachine.meter_due` has come."""


@dataclass(frozen=True, slots=True)
class EndsAcknowledged:
    attempt_ids: tuple[str, ...]


Event: TypeAlias = (
    Assigned
    | LoadReturned
    | LoadLasts
    | TakenUp
    | RunReturned
    | StoreReturned
    | CancelRequested
    | CancelAll
    | Revoked
    | LeaseExpired
    | MeterExtended
    | MeterDue
    | EndsAcknowledged
)
