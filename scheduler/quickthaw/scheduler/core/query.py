"""What placement is asked and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from quickthaw.scheduler.core.considered import Considered
from quickthaw.scheduler.core.decisions import Candidate, Refusal
from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.model import Job, Tier, WorkerId
from quickthaw.scheduler.core.records import record
from quickthaw.scheduler.core.worker import Worker

JOB_REASONS = frozenset({"excluded", "price_cap", "deadline", "alone"})
"""Refusals that another request for the same model might not meet."""


@record
class Placement:
    """The chosen worker. `warm`: all of the model is there, or on its way there."""

    chosen: Candidate
    considered: Considered
    tie_break: str

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return self.considered.candidates

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return self.considered.refusals

    @property
    def warm(self) -> bool:
        return self.chosen.start_tier is Tier.VRAM


@record
class Unplaced:
    """No worker now. `waits_for` is full and worth waiting for, at most `wait_seconds`: as long as
    the best of the others would have cost, so that waiting at most doubles that."""

    considered: Considered
    waits_for: WorkerId | None = None
    wait_seconds: float = 0.0

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return self.considered.candidates

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return self.considered.refusals

    @property
    def for_the_job_only(self) -> bool:
        """Another request for the same model might fare better."""
        return self.waits_for is not None or bool(self.considered.refused_for(JOB_REASONS))


class Query(NamedTuple):
    """Whom to place, with what is special about this try."""

    job: Job
    excluded: frozenset[WorkerId] = frozenset()
    """Workers on which the request was lost; they are asked again when nobody else could ever."""
    patient: bool = True
    """It may be told to wait for a full worker rather than load a copy elsewhere."""
    queued_on: Mapping[WorkerId, int] = MappingProxyType({})
    """How many requests before it wait for a full worker already."""
    alone: bool = False
    """It ended a worker's process, and goes only where nothing else would be taken along."""
    hypothetical: bool = False
    """For a quote: workers without a place or room now count as if they had it in time."""
    choosy: bool = False
    """Nobody else's request waits, who could go first meanwhile: a patient one may wait for a full
    worker also if another one has the model and could take it."""


def binding_exclusions(
    query: Query, fleet: Fleet, suits: Callable[[Worker], bool]
) -> frozenset[WorkerId]:
    """Where a request was lost it does not go again, unless nobody else could ever run it."""
    others = (each for each in fleet.able(query.job.model) if each.worker_id not in query.excluded)
    return query.excluded if any(map(suits, others)) else frozenset()
