"""The score of each candidate for one request, and the choice among them; see `placement`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.eviction import choose_victims
from quickthaw.scheduler.core.fleet import Worker
from quickthaw.scheduler.core.index import Fleet
from quickthaw.scheduler.core.model import (
    Candidate,
    Digest,
    Estimate,
    Job,
    Refusal,
    Tier,
    WorkerId,
)
from quickthaw.scheduler.core.pricing import dollars
from quickthaw.scheduler.core.settings import PlacementPolicy

JOB_REASONS = frozenset({"excluded", "price_cap", "deadline"})
"""Refusals that another request for the same model might not meet."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The chosen worker. `warm`: all of the model is there, or on its way there."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    tie_break: str
    held_elsewhere: bool
    """Some worker without a free place has the whole model."""

    @property
    def warm(self) -> bool:
        return self.chosen.start_tier is Tier.VRAM


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No worker now. `waits_for` has the model and is worth waiting for, at most `wait_seconds`:
    as long again as the load that is saved, so that waiting costs at most double."""

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    waits_for: WorkerId | None = None
    wait_seconds: float = 0.0

    @property
    def for_the_job_only(self) -> bool:
        """Another request for the same model might fare better."""
        return self.waits_for is not None or any(r.reason in JOB_REASONS for r in self.refusals)


class Query(NamedTuple):
    """Whom to place, with what is special about this try."""

    job: Job
    excluded: frozenset[WorkerId] = frozenset()
    """Workers on which the request was lost; they are asked again when nobody else could ever."""
    patient: bool = True
    """It may be told to wait for a worker that has the model."""
    queued_on: Mapping[WorkerId, int] = MappingProxyType({})
    """How many requests before it wait for a full worker already."""
    hypothetical: bool = False
    """For a quote: workers without a place or room now count as if they had it in time."""


class _Scored(NamedTuple):
    """A candidate with what orders it; compared as a tuple, and ids differ."""

    score_seconds: float
    missing_bytes: int
    held: int
    worker_id: WorkerId
    candidate: Candidate


class Scorer:
    """The state of one decision."""

    __slots__ = (
        "_estimates",
        "_exclude",
        "_fleet",
        "_job",
        "_lambda",
        "_now_ms",
        "_policy",
        "_query",
        "_refusals",
        "_runs",
        "_seen",
        "_waiting",
        "open",
    )

    def __init__(
        self,
        query: Query,
        fleet: Fleet,
        estimates: Estimates,
        policy: PlacementPolicy,
        now_ms: int,
    ) -> None:
        self._job = job = query.job
        self._fleet = fleet
        self._estimates = estimates
        self._policy = policy
        self._now_ms = now_ms
        self._query = query
        self._exclude = _binding_exclusions(query, fleet)
        worth = job.second_worth_nanodollars or policy.second_worth_nanodollars
        self._lambda = 1.0 / worth
        self._runs: dict[str, Estimate] = {}
        self._seen: set[WorkerId] = set()
        self._refusals: list[Refusal] = []
        self._waiting: list[_Scored] = []
        self.open: list[_Scored] = []

    def look_at(self, worker: Worker) -> None:
        """Scores a worker or notes why not; once for each worker."""
        if worker.worker_id in self._seen:
            return
        self._seen.add(worker.worker_id)
        refusal = self._limits(worker)
        if refusal is None:
            refusal = self._score(worker)
        if refusal is not None:
            self._refusals.append(Refusal(worker.worker_id, *refusal))

    def look_at_everyone(self) -> None:
        if self._query.hypothetical:
            self.explain_everyone()
            return
        for kind in self._fleet.classes():
            for worker_id in self._fleet.least_loaded(kind):
                self.look_at(self._fleet.workers[worker_id])
        if len(self._fleet.workers) <= self._policy.explain_workers_max:
            self.explain_everyone()

    def explain_everyone(self) -> None:
        for worker in self._fleet.workers.values():
            self.look_at(worker)

    def choose(self) -> Placement | Unplaced:
        refusals = tuple(self._refusals)
        candidates = tuple(scored.candidate for scored in sorted(self.open))
        if not self.open:
            return Unplaced(candidates, refusals)
        best = min(self.open)
        if self._query.patient and self._waiting:
            waiting = min(self._waiting)
            if waiting.score_seconds < best.score_seconds and best.missing_bytes:
                load_seconds = best.candidate.load_seconds
                return Unplaced(candidates, refusals, waiting.worker_id, load_seconds)
        chosen, tie_break = self._hinted_or(best), self._tie_break(best)
        if chosen is not best:
            tie_break = "hint"
        return Placement(chosen.candidate, candidates, refusals, tie_break, bool(self._waiting))

    # ---- one worker --------------------------------------------------------------------------

    def _limits(self, worker: Worker) -> tuple[str, str] | None:
        """Why it is out of the question whatever it holds: the reason's word and the numbers."""
        job = self._job
        if not worker.ready:
            return worker.state.value, ""
        if worker.worker_id in self._exclude:
            return "excluded", "the request was lost there"
        if worker.reserved_for is not None and worker.reserved_for != job.request_id:
            return "reserved", f"for {worker.reserved_for}, which was passed over too often"
        model = job.model
        if (wanted := model.weight_bytes + model.working_bytes) > worker.spec.vram_bytes:
            return "vram", f"needs {wanted} bytes of {worker.spec.vram_bytes}, even when empty"
        if cap := job.price_cap_nanodollars:
            run = self._run_estimate(worker)
            price = round(run.p95 * worker.kind.rate_nanodollars_per_second)
            if price > cap:
                return "price_cap", f"{dollars(price)} at p95 is over the cap of {dollars(cap)}"
        return None

    def _score(self, worker: Worker) -> tuple[str, str] | None:
        """Adds the worker to the open or the waiting ones, or says why it is neither."""
        job, model, policy = self._job, self._job.model, self._policy
        full = not worker.accepts and not self._query.hypothetical
        sizes, planned = model.sizes, worker.planned
        if full and not sizes.keys() <= planned.keys():
            return "depth", f"holds {len(worker.held)} of {worker.depth} attempts"
        missing_bytes, load_seconds, start_tier = self._load(worker)
        evict: tuple[Digest, ...] = ()
        eviction_term = 0.0
        used = worker.planned_bytes + worker.working_bytes(model.working_bytes)
        need_bytes = used + missing_bytes - worker.spec.vram_bytes
        if need_bytes > 0 and not full:
            victims = choose_victims(worker.evictable(), sizes, need_bytes)
            if victims is None and not self._query.hypothetical:
                return "vram_in_use", f"{need_bytes} bytes more than can be freed now"
            evict = victims or ()
            eviction_term = policy.eviction_weight * worker.credits.reload_seconds(evict)
        run = self._run_estimate(worker)
        drain_seconds = max(0, worker.available_ms - self._now_ms) / 1000
        if full:
            drain_seconds += self._query.queued_on.get(worker.worker_id, 0) * run.p50
        finish_seconds = drain_seconds + load_seconds + run.p50
        if job.deadline_ms:
            # An unlearned run time is a guess, and no ground for refusing somebody.
            surely = finish_seconds if run.samples else drain_seconds + load_seconds
            if self._now_ms + surely * 1000 > job.deadline_ms:
                return "deadline", f"would end {surely:.1f} s from now"
        load_term = policy.load_weight * load_seconds
        rate = worker.kind.rate_nanodollars_per_second
        price_term = self._lambda * rate * (load_seconds + run.p50)
        score = finish_seconds + load_term + price_term + eviction_term
        candidate = Candidate(
            worker.worker_id,
            score,
            drain_seconds,
            load_seconds,
            run.p50,
            load_term,
            price_term,
            eviction_term,
            start_tier,
            evict,
        )
        scored = _Scored(score, missing_bytes, len(worker.held), worker.worker_id, candidate)
        if full:
            self._waiting.append(scored)
            return "depth", f"holds {len(worker.held)} of {worker.depth} attempts"
        self.open.append(scored)
        return None

    def _load(self, worker: Worker) -> tuple[int, float, Tier]:
        """Missing bytes, the seconds to bring them, and the farthest tier they come from."""
        planned = worker.planned
        by_tier: dict[Tier, int] = {}
        for digest, size_bytes in self._job.model.sizes.items():
            if digest not in planned:
                tier = worker.tier_below(digest)
                by_tier[tier] = by_tier.get(tier, 0) + size_bytes
        missing_bytes, seconds, farthest = 0, 0.0, Tier.VRAM
        for tier, size_bytes in by_tier.items():
            missing_bytes += size_bytes
            seconds += self._estimates.load_seconds(worker.worker_id, tier, size_bytes).p50
            farthest = max(farthest, tier)
        return missing_bytes, seconds, farthest

    def _run_estimate(self, worker: Worker) -> Estimate:
        gpu_type = worker.spec.gpu_type
        if (known := self._runs.get(gpu_type)) is None:
            job = self._job
            known = self._estimates.run_seconds(job.model.id, gpu_type, job.work_units)
            self._runs[gpu_type] = known
        return known

    # ---- the choice --------------------------------------------------------------------------

    def _hinted_or(self, best: _Scored) -> _Scored:
        for scored in self.open if self._job.worker_hint else ():
            if scored.worker_id == self._job.worker_hint:
                late = _finish(scored.candidate) - _finish(best.candidate)
                return scored if late <= self._policy.hint_slack_seconds else best
        return best

    def _tie_break(self, best: _Scored) -> str:
        equals = [s for s in self.open if s.score_seconds == best.score_seconds and s is not best]
        if not equals:
            return ""
        if all(s.missing_bytes > best.missing_bytes for s in equals):
            return "more of the model resident"
        if all(s[:3] != best[:3] for s in equals):
            return "fewer attempts held"
        return "worker id"


def _finish(candidate: Candidate) -> float:
    return candidate.drain_seconds + candidate.load_seconds + candidate.run_seconds


def _binding_exclusions(query: Query, fleet: Fleet) -> frozenset[WorkerId]:
    """Where a request was lost it does not go again, unless nobody else could ever hold it."""
    if not query.excluded:
        return query.excluded
    model = query.job.model
    wanted = model.weight_bytes + model.working_bytes
    for worker in fleet.workers.values():
        if (
            worker.ready
            and worker.spec.vram_bytes >= wanted
            and worker.worker_id not in query.excluded
        ):
            return query.excluded
    return frozenset()
