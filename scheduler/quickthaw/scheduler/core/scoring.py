"""The score of each candidate for one request, and the choice among them; see `placement`."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.eviction import choose_victims
from quickthaw.scheduler.core.fleet import Worker, WorkerClass
from quickthaw.scheduler.core.index import Fleet
from quickthaw.scheduler.core.model import Candidate, Digest, Estimate, Refusal, Tier, WorkerId
from quickthaw.scheduler.core.pricing import dollars
from quickthaw.scheduler.core.query import Placement, Query, Unplaced
from quickthaw.scheduler.core.settings import PlacementPolicy


class _Scored(NamedTuple):
    """A candidate with what orders it; compared as a tuple, and ids differ."""

    score_seconds: float
    missing_bytes: int
    held: int
    worker_id: WorkerId
    candidate: Candidate


class _Kind(NamedTuple):
    """What the job's run means on one class of workers."""

    of: WorkerClass
    run: Estimate
    run_p50: float
    second_costs: float
    """What one second on it is worth, in seconds of the caller's."""
    load_costs: float
    """What a second of loading adds to the score."""
    least_seconds: float
    """The score of a worker that has everything and no queue."""
    refusal: tuple[str, str] | None
    """Why none of them is in question: the reason's word and the numbers."""


_Prospect: TypeAlias = tuple[float, int, int, WorkerId, tuple[Worker, _Kind, float, float, Tier]]
"""A worker before it is known what must leave it: its score without the cost of that, missing
bytes, attempts held, its id; then the worker, its kind, drain and load seconds and the farthest
tier. A plain tuple, as there are a dozen for each decision."""

_Awaited: TypeAlias = tuple[float, int, int, WorkerId]
"""As the first four of a prospect: a full worker that has the whole model."""

_NOTHING_MISSING = (0, 0.0, Tier.VRAM)


class Scorer:
    """The state of one decision: look at workers, `settle`, `choose`.

    In a fleet small enough for every worker to be explained each gets its full score. In a larger
    one whoever cannot beat the best so far is passed over by a bound, which changes no choice.
    """

    __slots__ = (
        "_bars_nobody",
        "_best_seconds",
        "_estimates",
        "_exclude",
        "_explains",
        "_fleet",
        "_job",
        "_kinds",
        "_lambda",
        "_largest",
        "_largest_bytes",
        "_now_ms",
        "_policy",
        "_pool",
        "_prospects",
        "_query",
        "_refusals",
        "_seen",
        "_waiting",
        "_wanted_bytes",
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
        self._pool = fleet.pool_of(job.model.id)
        self._now_ms = now_ms
        self._query = query
        self._exclude = _binding_exclusions(query, fleet) if query.excluded else query.excluded
        self._bars_nobody = not (self._exclude or query.alone)
        worth = job.second_worth_nanodollars or policy.second_worth_nanodollars
        self._lambda = 1.0 / worth
        self._wanted_bytes = job.model.weight_bytes + job.model.working_bytes
        self._largest: Digest | None
        self._largest, self._largest_bytes = next(iter(job.model.sizes.items()), (None, 0))
        self._explains = len(fleet.workers) <= policy.explain_workers_max
        self._best_seconds = math.inf
        self._kinds: dict[WorkerClass, _Kind] = {}
        self._seen: set[WorkerId] = set()
        self._refusals: list[Refusal] = []
        self._waiting: list[_Awaited] = []
        self._prospects: list[_Prospect] = []
        self.open: list[_Scored] = []

    def _price_nanodollars(self, kind: WorkerClass, run_seconds: float) -> int:
        """What the caller pays there; the price term of the score goes by what the GPU is worth."""
        prices, job = self._fleet.prices, self._job
        if prices is None:
            return round(run_seconds * kind.rate_nanodollars_per_second)
        return round(
            prices.expected_nanodollars(job.model.id, kind.gpu_type, job.outputs, run_seconds)
        )

    def look_at(self, worker: Worker) -> None:
        """Assesses a worker or notes why not; once for each worker."""
        worker_id = worker.worker_id
        if worker_id in self._seen:
            return
        self._seen.add(worker_id)
        if (kind := self._kinds.get(worker.kind)) is None:
            kind = self._on(worker.kind)
        if self._best_seconds < math.inf and self._cannot_win(worker, kind):
            return
        if (
            self._bars_nobody
            and kind.refusal is None
            and worker.ready
            and worker.reserved_for is None
        ):
            refusal = self._assess(worker, kind)
        else:
            refusal = self._limits(worker, kind) or self._assess(worker, kind)
        if refusal is not None:
            self._refusals.append(Refusal(worker_id, *refusal))

    def look_at_everyone(self) -> None:
        if self._query.hypothetical:
            self.explain_everyone()
            return
        for kind in self._fleet.classes():
            for worker_id in self._fleet.least_loaded(kind):
                self.look_at(self._fleet.workers[worker_id])
        if self._explains:
            self.explain_everyone()

    def explain_everyone(self) -> None:
        for worker in self._fleet.workers.values():
            self.look_at(worker)

    def settle(self) -> None:
        """Works out what those that lack room would evict, the most promising first. Those that
        cannot win any more even if that were free are refused as `costlier` without the work."""
        for prospect in sorted(self._prospects):
            least, worker_id = prospect[0], prospect[3]
            if least > self._best_seconds and worker_id != self._job.worker_hint:
                detail = f"at least {least:.2f} s against {self._best_seconds:.2f} s"
                self._refusals.append(Refusal(worker_id, "costlier", detail))
                continue
            scored = self._evicting(prospect)
            if isinstance(scored, Refusal):
                self._refusals.append(scored)
            else:
                self._open(scored)
        self._prospects.clear()

    def choose(self) -> Placement | Unplaced:
        """To be called after `settle`."""
        refusals = tuple(self._refusals)
        self.open.sort()
        candidates = tuple([scored.candidate for scored in self.open])
        if not self.open:
            return Unplaced(candidates, refusals)
        best = self.open[0]
        if self._query.patient and self._waiting:
            score_seconds, _missing, _held, worker_id = min(self._waiting)
            if score_seconds < best.score_seconds and best.missing_bytes:
                return Unplaced(candidates, refusals, worker_id, best.score_seconds)
        chosen, tie_break = self._hinted_or(best), self._tie_break(best)
        if chosen is not best:
            tie_break = "hint"
        return Placement(chosen.candidate, candidates, refusals, tie_break)

    # ---- one worker --------------------------------------------------------------------------

    def _cannot_win(self, worker: Worker, kind: _Kind) -> bool:
        """Whether it loses to the best so far even if it needs no eviction and has what it lacks
        pinned: a few look-ups in place of an assessment. A full worker that has the model is
        worth waiting for only if it beats the best, too."""
        least_seconds = kind.least_seconds
        if worker.available_ms > self._now_ms:
            least_seconds += (worker.available_ms - self._now_ms) / 1000
        if self._largest not in worker.planned:
            if not worker.accepts:
                return True
            line = self._estimates.load_line(worker.worker_id, Tier.PINNED)
            load_seconds = line.latency_seconds + self._largest_bytes * line.seconds_per_byte
            least_seconds += load_seconds * kind.load_costs
        return least_seconds > self._best_seconds

    def _limits(self, worker: Worker, kind: _Kind) -> tuple[str, str] | None:
        """Why it is out of the question whatever it holds: the reason's word and the numbers."""
        job = self._job
        if not worker.ready:
            return worker.state.value, ""
        if kind.refusal is not None:
            return kind.refusal
        if self._query.alone and worker.held:
            return "alone", "the request ended a worker's process and is tried on an empty one"
        if worker.worker_id in self._exclude:
            return "excluded", "the request was lost there"
        if worker.reserved_for is not None and worker.reserved_for != job.request_id:
            return "reserved", f"for {worker.reserved_for}, which was passed over too often"
        return None

    def _class_refusal(self, of: WorkerClass, run: Estimate) -> tuple[str, str] | None:
        """Why none of a class is in question."""
        if of.dedicated_to != self._pool:
            if of.dedicated_to is not None:
                return "dedicated", f"to {of.dedicated_to}"
            return "dedicated", "the endpoint runs on workers that are reserved for it"
        if self._wanted_bytes > of.vram_bytes:
            room = of.vram_bytes
            return "vram", f"needs {self._wanted_bytes} bytes of {room}, even when empty"
        if cap := self._job.price_cap_nanodollars:
            price = self._price_nanodollars(of, run.p95)
            if price > cap:
                return "price_cap", f"{dollars(price)} at p95 is over the cap of {dollars(cap)}"
        return None

    def _assess(self, worker: Worker, kind: _Kind) -> tuple[str, str] | None:
        """Adds the worker to the open, the prospective or the waiting ones, or says why not."""
        job, now_ms, run_p50 = self._job, self._now_ms, kind.run_p50
        planned = worker.planned
        # The largest alone settles it for most that lack something.
        resident = (
            self._largest in planned or self._largest is None
        ) and job.model.sizes.keys() <= planned.keys()
        full = not worker.accepts and not self._query.hypothetical
        if full and not resident:
            return "depth", f"holds {len(worker.held)} of {worker.depth} attempts"
        missing_bytes, load_seconds, tier = _NOTHING_MISSING if resident else self._load(worker)
        drain_seconds = 0.0
        if worker.available_ms > now_ms:
            drain_seconds = (worker.available_ms - now_ms) / 1000
        if full:
            drain_seconds += self._query.queued_on.get(worker.worker_id, 0) * run_p50
        least_seconds = kind.least_seconds + drain_seconds + kind.load_costs * load_seconds
        if least_seconds > self._best_seconds:
            return None
        if job.deadline_ms:
            # An unlearned run time is a guess, and no ground for refusing somebody.
            surely = drain_seconds + load_seconds + (run_p50 if kind.run.samples else 0.0)
            if now_ms + surely * 1000 > job.deadline_ms:
                return "deadline", f"would end {surely:.1f} s from now"
        held, worker_id = len(worker.held), worker.worker_id
        if full:
            self._waiting.append((least_seconds, missing_bytes, held, worker_id))
            return "depth", f"holds {held} of {worker.depth} attempts"
        terms = (worker, kind, drain_seconds, load_seconds, tier)
        prospect = (least_seconds, missing_bytes, held, worker_id, terms)
        if self._need_bytes(worker, missing_bytes) > 0:
            self._prospects.append(prospect)
        else:
            self._open(self._scored(prospect))
        return None

    def _open(self, scored: _Scored) -> None:
        self.open.append(scored)
        if scored[0] < self._best_seconds and not self._explains:
            self._best_seconds = scored[0]

    def _need_bytes(self, worker: Worker, missing_bytes: int) -> int:
        """How much must leave the worker first, if positive."""
        used_bytes = worker.planned_bytes + worker.working_bytes(self._job.model.working_bytes)
        return used_bytes + missing_bytes - worker.kind.vram_bytes

    def _evicting(self, prospect: _Prospect) -> _Scored | Refusal:
        worker = prospect[4][0]
        need_bytes = self._need_bytes(worker, prospect[1])
        victims = choose_victims(worker.evictable(), self._job.model.sizes, need_bytes)
        if victims is None and not self._query.hypothetical:
            detail = f"{need_bytes} bytes more than can be freed now"
            return Refusal(worker.worker_id, "vram_in_use", detail)
        evict = victims or ()
        term = self._policy.eviction_weight * worker.credits.reload_seconds(evict)
        return self._scored(prospect, evict, term)

    def _scored(
        self, prospect: _Prospect, evict: tuple[Digest, ...] = (), eviction_seconds: float = 0.0
    ) -> _Scored:
        least_seconds, missing_bytes, held, worker_id, terms = prospect
        _worker, kind, drain_seconds, load_seconds, tier = terms
        score_seconds = least_seconds + eviction_seconds
        candidate = Candidate(
            worker_id,
            score_seconds,
            drain_seconds,
            load_seconds,
            kind.run_p50,
            self._policy.load_weight * load_seconds,
            kind.second_costs * (load_seconds + kind.run_p50),
            eviction_seconds,
            tier,
            evict,
        )
        return _Scored(score_seconds, missing_bytes, held, worker_id, candidate)

    def _load(self, worker: Worker) -> tuple[int, float, Tier]:
        """Missing bytes, the seconds to bring them, and the farthest tier they come from."""
        planned, on_disk = worker.planned, worker.resident[Tier.DISK]
        pinned = worker.resident[Tier.PINNED]
        pinned_bytes = disk_bytes = remote_bytes = 0
        for digest, size_bytes in self._job.model.sizes.items():
            if digest in planned:
                continue
            if digest in pinned:
                pinned_bytes += size_bytes
            elif digest in on_disk:
                disk_bytes += size_bytes
            else:
                remote_bytes += size_bytes
        seconds, farthest = 0.0, Tier.VRAM
        # Written out three times: it is asked for a dozen workers of each decision.
        load_line, worker_id = self._estimates.load_line, worker.worker_id
        if pinned_bytes:
            latency_seconds, seconds_per_byte = load_line(worker_id, Tier.PINNED)
            seconds, farthest = latency_seconds + pinned_bytes * seconds_per_byte, Tier.PINNED
        if disk_bytes:
            latency_seconds, seconds_per_byte = load_line(worker_id, Tier.DISK)
            seconds += latency_seconds + disk_bytes * seconds_per_byte
            farthest = Tier.DISK
        if remote_bytes:
            latency_seconds, seconds_per_byte = load_line(worker_id, Tier.REMOTE)
            seconds += latency_seconds + remote_bytes * seconds_per_byte
            farthest = Tier.REMOTE
        return pinned_bytes + disk_bytes + remote_bytes, seconds, farthest

    def _on(self, worker_class: WorkerClass) -> _Kind:
        job = self._job
        run = self._estimates.run_seconds(job.model.id, worker_class.gpu_type, job.work_units)
        second_costs = self._lambda * worker_class.rate_nanodollars_per_second
        least_seconds = run.p50 * (1.0 + second_costs)
        refusal = self._class_refusal(worker_class, run)
        load_costs = 1.0 + self._policy.load_weight + second_costs
        kind = _Kind(worker_class, run, run.p50, second_costs, load_costs, least_seconds, refusal)
        self._kinds[worker_class] = kind
        return kind

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
