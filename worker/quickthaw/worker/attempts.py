"""The words of an attempt on its worker: what it is given, what happens to it, what it asks for.

`machine.AttemptMachine` turns the events below into the commands below; everything that touches
the world (threads, the wire, files) is on the far side of a command.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from quickthaw.wire.errors import FieldViolation
from quickthaw.wire.limits import CONTENTS_BYTES_MAX


class Tier(enum.IntEnum):
    """Where a component's bytes are, nearest first. The numbers are the wire's."""

    VRAM = 1
    PINNED = 2
    DISK = 3
    REMOTE = 4

    @property
    def label(self) -> str:
        return self.name.lower()


class Phase(enum.Enum):
    """The life of an attempt on its worker, in order; any phase may skip ahead to ENDED.

        ASSIGNED -> LOADING -> READY -> RUNNING -> STORING -> ENDED
            ^----------'  (no room until a run ends)

    ENDED attempts are kept until the scheduler has acknowledged the end.
    """

    ASSIGNED = "assigned"
    LOADING = "loading"
    READY = "ready"  # loaded, waiting for a run slot
    RUNNING = "running"  # the meter is open
    STORING = "storing"  # the meter is closed, outputs are on their way to the blob store
    ENDED = "ended"


class Outcome(enum.Enum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another worker that lets this one read from it."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Assignment:
    attempt_id: str
    request_id: str
    model: str
    family: str
    snapshot_digest: str
    snapshot_uri: str
    input_json: str
    attempt: int
    evict_digests: tuple[str, ...]
    deadline_unix_ms: int
    whereabouts: tuple[tuple[str, tuple[Peer, ...]], ...] = ()
    """Components that this worker lacks, with the peers that have them, best first."""
    meter_lease_ms: int = 0
    """Run time that is paid for so far; 0 for no limit."""
    contents_bytes_max: int = 0
    """Outputs of no more than this together are sent along with the end, and stored after it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`reason` is a leaf of the error tree; `retryable`: the same request may succeed later."""

    reason: str
    message: str
    retryable: bool = False
    violations: tuple[FieldViolation, ...] = ()


@dataclass(frozen=True, slots=True)
class ComponentLoad:
    name: str
    digest: str
    size_bytes: int
    source: Tier
    copier: str
    read_seconds: float
    copy_seconds: float
    why: str = ""
    """What made it this copier: half a sentence."""


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """How a model came to the device for one attempt; the parts overlap in time."""

    components: tuple[ComponentLoad, ...] = ()
    manifest_seconds: float = 0.0
    skeleton_seconds: float = 0.0
    bytes_seconds: float = 0.0
    bind_seconds: float = 0.0
    encode_seconds: float = 0.0
    """The attempt's prompt, while the rest of the model was on its way."""
    total_seconds: float = 0.0
    batch_key: str = ""
    """Attempts of one snapshot with equal keys may run as one batch; empty for never."""

    @property
    def start_tier(self) -> Tier:
        """The farthest tier that any component had to come from."""
        return max((component.source for component in self.components), default=Tier.VRAM)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One encoded output, not stored yet; `width` and `height` are 0 for what has no pixels, and
    `duration_ms` for what does not last."""

    name: str
    content_type: str
    data: bytes
    width: int = 0
    height: int = 0
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    uri: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str
    width: int
    height: int
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a family's run gave. `seed` is None where the family has none."""

    files: tuple[OutputFile, ...]
    output_json: str
    seed: int | None = None
    first_step_seconds: float = 0.0
    compiled: str = ""
    """How much of it ran as compiled code, for a receipt; empty if nothing did."""


def sent_along(assignment: Assignment, files: Sequence[OutputFile]) -> bool:
    """Whether these outputs' bytes go with the end."""
    size_bytes = sum(len(file.data) for file in files)
    return size_bytes <= min(assignment.contents_bytes_max, CONTENTS_BYTES_MAX)


def contents_of(assignment: Assignment, result: RunResult) -> tuple[bytes, ...]:
    """What is sent along with the end."""
    if not sent_along(assignment, result.files):
        return ()
    return tuple(file.data for file in result.files)


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run obeyed a stop before it was done."""


@dataclass(frozen=True, slots=True)
class NoRoomYet:
    """The model fits this worker, but not beside what is in use now."""


# ---- events ------------------------------------------------------------------------------------


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

# ---- commands ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BeginLoad:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class TakeUp:
    """Take the model into use if it is up, beside the load that goes on; TakenUp answers."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class BeginRun:
    """`mates` run with it as one batch; the run is named for the first."""

    assignment: Assignment
    mates: tuple[Assignment, ...] = ()


@dataclass(frozen=True, slots=True)
class BeginStore:
    assignment: Assignment
    files: tuple[OutputFile, ...]


@dataclass(frozen=True, slots=True)
class StopWork:
    """Ask the attempt's load, run or store to stop. Its Returned event may still come."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class ReleaseModel:
    """The attempt was loaded and will not run: its model is no longer in use by it."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class TellLoading:
    attempt_id: str


@dataclass(frozen=True, slots=True)
class TellRunning:
    attempt_id: str
    load: LoadSummary
    load_ms: int


@dataclass(frozen=True, slots=True)
class TellFinished:
    """The end of an attempt; kept until acknowledged."""

    attempt_id: str
    request_id: str
    outcome: Outcome
    metered_ms: int
    load_ms: int
    load: LoadSummary | None
    first_step_seconds: float = 0.0
    compiled: str = ""
    output_json: str = ""
    artifacts: tuple[StoredArtifact, ...] = ()
    failure: Failure | None = None
    seed: int | None = None
    contents: tuple[bytes, ...] = ()


Command: TypeAlias = (
    BeginLoad
    | TakeUp
    | BeginRun
    | BeginStore
    | StopWork
    | ReleaseModel
    | TellLoading
    | TellRunning
    | TellFinished
)


@dataclass(frozen=True, slots=True)
class Status:
    """One line of a heartbeat or a Hello; `outcome` is set once the attempt has ended."""

    attempt_id: str
    request_id: str
    phase: Phase
    metered_ms: int
    outcome: Outcome | None = None
