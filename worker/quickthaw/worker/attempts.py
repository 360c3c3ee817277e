"""The words of an attempt on its worker: what it is given, what becomes of it, what it leaves."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Status:
    """One line of a heartbeat or a Hello; `outcome` is set once the attempt has ended."""

    attempt_id: str
    request_id: str
    phase: Phase
    metered_ms: int
    outcome: Outcome | None = None
