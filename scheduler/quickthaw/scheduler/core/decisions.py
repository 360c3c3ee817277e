"""What placement found out and chose, as it is kept for whoever asks why."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from quickthaw.scheduler.core.model import Digest, Tier, WorkerId
from quickthaw.scheduler.core.records import record


class Candidate(NamedTuple):
    """The terms of one worker's score, in seconds; the smallest sum wins."""

    worker_id: WorkerId
    score_seconds: float
    drain_seconds: float
    load_seconds: float
    run_seconds: float
    load_term_seconds: float
    price_term_seconds: float
    eviction_term_seconds: float
    start_tier: Tier
    evict_digests: tuple[Digest, ...]


EVERY_WORKER = WorkerId("")
"""In a refusal: what holds a request back is no worker's affair, but a limit."""


class Refusal(NamedTuple):
    """Why a worker was not even scored. `reason` is one word of a fixed set."""

    worker_id: WorkerId
    reason: str
    detail: str = ""


class Explained(Protocol):
    """What was found out about workers for a decision, candidates best first; see `considered`."""

    @property
    def candidates(self) -> tuple[Candidate, ...]: ...

    @property
    def refusals(self) -> tuple[Refusal, ...]: ...


@record
class Decision:
    """Why a request ran where it did, or why nothing could take it then (no chosen worker)."""

    attempt: int
    decided_ms: int
    chosen_worker_id: WorkerId | None
    considered: Explained
    tie_break: str = ""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return self.considered.candidates

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return self.considered.refusals
