"""One request that waits for a worker: its place in the order, and what was tried for it."""

from __future__ import annotations

from typing import NamedTuple

from quickthaw.scheduler.core.considered import Considered
from quickthaw.scheduler.core.model import Job, RequestId, WorkerId


class Rank(NamedTuple):
    """The place inside a tenant: a smaller rank goes first."""

    effective_ms: int
    sequence: int
    request_id: RequestId


class Tried(NamedTuple):
    """Why a request still waits: no worker could take it in this version of the fleet, or it
    rather waits for one that has its model."""

    considered: Considered
    """What that try found."""
    fleet_version: int
    waits_for: WorkerId | None
    hopeless: bool
    """No other request for the same model would have fared better."""
    choosy: bool = False
    """Nobody else's request waited then; see `query.Query`."""


class Waiting:
    """One request in the queue. `cost_nanodollars` is what its tenant will be charged if nothing
    better is known when it is placed, `run_ms` how long it may run."""

    __slots__ = (
        "bypassed",
        "cost_nanodollars",
        "gate",
        "impatient_at_ms",
        "job",
        "passed_over_ms",
        "rank",
        "run_ms",
        "tried",
    )

    def __init__(self, job: Job, rank: Rank, cost_nanodollars: float, run_ms: float) -> None:
        self.job = job
        self.rank = rank
        self.cost_nanodollars = cost_nanodollars
        self.run_ms = run_ms
        self.bypassed = 0
        """Later requests that were placed while no worker was found for this one."""
        self.passed_over_ms = 0
        """When it was its turn for the first time and yet it was not placed; 0 before that."""
        self.impatient_at_ms = 0
        """Until then it may wait for a busy worker that has its model; 0 before the first wait."""
        self.tried: Tried | None = None
        self.gate = ""
        """Where it is parked; empty if it is in the order."""
