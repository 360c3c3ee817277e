"""The score of each candidate for one request, and the choice among them; see `placement`.

This is the hottest code of the scheduler: a decision looks at a dozen workers in some 40 us. Hence
plain tuples for what is made once for each worker, and bounds that leave out whoever cannot win.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from quickthaw.scheduler.core.considered import Considered, Refused, Scored, tie_break
from quickthaw.scheduler.core.decisions import Candidate
from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.eviction import choose_victims
from quickthaw.scheduler.core.fleet import Fleet, Lot
from quickthaw.scheduler.core.model import Digest, Tier, WorkerId
from quickthaw.scheduler.core.pricing import dollars
from quickthaw.scheduler.core.query import Placement, Query, Unplaced, binding_exclusions
from quickthaw.scheduler.core.settings import PlacementPolicy
from quickthaw.scheduler.core.worker import Worker, WorkerClass

_Why: TypeAlias = tuple[str, str, tuple[object, ...]]
"""Why a worker is out of the question: as the end of a `Refused`."""

_Kind: TypeAlias = tuple[float, float, float, float, int, _Why | None]
"""What the job's run means on one class of workers: the score of a worker that has everything and
no queue; what a second of loading adds to the score; seconds to run; what a second on it is worth,
in seconds of the caller's; how many runs that is learned from; and why none is in question."""

_Prospect: TypeAlias = tuple[
    float, int, int, WorkerId, tuple[Worker, _Kind, float, float, Tier, int]
]
"""A worker that lacks room, before it is known what must leave it: as the first four of `Scored`,
but for the cost of that; then the worker, its kind, seconds to wait and to load, the farthest tier
and how many bytes must leave."""

_Awaited: TypeAlias = tuple[float, int, int, WorkerId]
"""As the first four of `Scored`: a full worker that might be worth waiting for."""


class Scorer:
    """The state of one decision: `look_at` workers, `settle`, `choose`.

    In a fleet small enough for every worker to be explained each gets its full score. In a larger
    one whoever cannot beat the best so far is passed over by a bound, which changes no choice.
    """

    __slots__ = (
        "_all_lack",
        "_awaited_seconds",
        "_deadline_ms",
        "_estimates",
        "_exclude",
        "_fleet",
        "_hypothetical",
        "_job",
        "_kinds",
        "_lambda",
        "_largest",
        "_least_load_seconds",
        "_now_ms",
        "_open",
        "_places_kept",
        "_plain",
        "_policy",
        "_pool",
        "_prospects",
        "_query",
        "_refused",
        "_scarce",
        "_seen",
        "_sizes",
        "_waiting",
        "_wanted_bytes",
        "_working_bytes",
        "best_seconds",
        "explains",
    )

    def __init__(
        self,
        query: Query,
        fleet: Fleet,
        estimates: Estimates,
        policy: PlacementPolicy,
        now_ms: int,
    ) -> None:
        job = query.job
        self._job = job
        self._fleet = fleet
        self._estimates = estimates
        self._policy = policy
        self._pool = job.model.id if job.model.id in fleet.dedicated else None
        self._now_ms = now_ms
        self._query = query
        self._hypothetical = query.hypothetical
        self._deadline_ms = job.deadline_ms
        self._working_bytes = job.model.working_bytes
        self._wanted_bytes = job.model.weight_bytes + job.model.working_bytes
        worth = job.second_worth_nanodollars or policy.second_worth_nanodollars
        self._lambda = 1.0 / worth
        self._sizes = sizes = job.model.sizes
        self._largest: Digest | None = next(iter(sizes), None)
        workers = len(fleet.workers)
        self.explains = workers <= policy.explain_workers_max
        """Whether every worker is to be scored or refused, so that the decision can be told in
        full."""
        few_idle = fleet.idle_count < policy.scarce_idle_share * workers
        self._scarce = few_idle or workers <= policy.few_workers_max
        self._places_kept = 0 if self._scarce else policy.queue_ahead_more
        """Of each worker, for when workers are scarce."""
        self.best_seconds = math.inf
        """The best score so far, where that bounds the search."""
        self._awaited_seconds = math.inf
        """What a full worker has to beat: that, and the best that could be waited for."""
        self._all_lack = False
        """Whether all that are not looked at yet lack the largest component in VRAM."""
        self._least_load_seconds = 0.0
        """Of those of them that do."""
        self._kinds: dict[int, _Kind] = {}
        self._seen: set[Worker] = set()
        self._refused: list[Refused] = []
        self._waiting: list[_Awaited] = []
        self._prospects: list[_Prospect] = []
        self._open: list[Scored] = []
        self._exclude = query.excluded and binding_exclusions(query, fleet, self._suits)
        self._plain = not (self._exclude or query.alone)

    @property
    def found(self) -> bool:
        """Some worker could take it; to be asked after `settle`."""
        return bool(self._open)

    def look_at(self, workers: Iterable[Worker]) -> None:
        """Assesses them or notes why not; each once, however often it is named. Whoever cannot win
        is passed over in silence."""
        seen, kinds, plain, now_ms = self._seen, self._kinds, self._plain, self._now_ms
        largest, least_load_seconds = self._largest, self._least_load_seconds
        all_lack = self._all_lack
        for worker in workers:
            if worker in seen:
                continue
            seen.add(worker)
            kind = kinds.get(worker.kind_number) or self._on(worker.kind, worker.kind_number)
            bound = self.best_seconds if worker.accepts else self._awaited_seconds
            drain_ms = worker.warm_ms - now_ms
            drain_seconds = drain_ms / 1000 if drain_ms > 0 else 0.0
            if kind[0] + drain_seconds > bound:
                continue
            if all_lack or largest not in worker.planned:
                drain_ms = worker.available_ms - now_ms
                drain_seconds = drain_ms / 1000 if drain_ms > 0 else 0.0
                if kind[0] + drain_seconds + kind[1] * least_load_seconds > bound:
                    continue
            if plain and kind[5] is None and worker.ready and worker.reserved_for is None:
                why = self._assess(worker, kind, drain_seconds)
            else:
                why = self._limits(worker, kind) or self._assess(worker, kind, drain_seconds)
            if why is not None:
                self._refused.append((worker.worker_id, *why))

    def beatable(self, lots: list[Lot], nearest: Tier) -> list[Lot]:
        """Those whose workers, of which nothing is known but that they have the largest component
        in tier `nearest` at best, might be chosen: a bound, and cheap."""
        best_seconds, load_seconds = self.best_seconds, 0.0
        if self._largest is not None:
            line = self._estimates.fastest_line(max(nearest, Tier.PINNED))
            load_seconds = line[0] + self._sizes[self._largest] * line[1]
            if not self._scarce:
                self._least_load_seconds = load_seconds
                self._all_lack = nearest is not Tier.VRAM
        if best_seconds == math.inf:
            return lots
        if nearest is Tier.VRAM:
            load_seconds = 0.0
        left: list[Lot] = []
        for lot in lots:
            kind = self._kinds.get(lot.number) or self._on(lot.kind, lot.number)
            if kind[5] is None and kind[0] + kind[1] * load_seconds <= best_seconds:
                left.append(lot)
        return left

    def settle(self) -> None:
        """Works out what those that lack room would evict, the most promising first. Those that
        cannot win any more even if that were free are refused as `costlier` without the work."""
        if not self._prospects:
            return
        self._prospects.sort()
        for prospect in self._prospects:
            least, worker_id = prospect[0], prospect[3]
            if least > self.best_seconds and worker_id != self._job.worker_hint:
                detail, told = "at least {:.2f} s against {:.2f} s", (least, self.best_seconds)
                self._refused.append((worker_id, "costlier", detail, told))
            else:
                self._make_room(prospect)
        self._prospects.clear()

    def choose(self) -> Placement | Unplaced:
        """To be called after `settle`, once."""
        scored = self._open
        considered = Considered(scored, self._refused, self._policy.load_weight)
        if not scored:
            return Unplaced(considered)
        best = min(scored)
        if self._waiting and self._query.patient and (best[1] or self._query.choosy):
            awaited = min(self._waiting)
            if awaited[0] < best[0]:
                return Unplaced(considered, awaited[3], best[0])
        if self._job.worker_hint:
            hinted = self._hinted_or(best, considered)
            if hinted is not best:
                return Placement(considered.candidate(hinted), considered, "hint")
        won_by = tie_break(best, scored) if len(scored) > 1 else ""
        return Placement(considered.candidate(best), considered, won_by)

    # ---- one worker --------------------------------------------------------------------------

    def _limits(self, worker: Worker, kind: _Kind) -> _Why | None:
        """Why it is out of the question whatever it holds: the reason's word and the numbers."""
        if not worker.ready:
            return worker.state.value, "", ()
        if kind[5] is not None:
            return kind[5]
        if self._query.alone and worker.held:
            told = "the request ended a worker's process and is tried on an empty one"
            return "alone", told, ()
        if worker.worker_id in self._exclude:
            return "excluded", "the request was lost there, or could not be loaded", ()
        if worker.reserved_for is not None and worker.reserved_for != self._job.request_id:
            told = "for {}, which was passed over too often"
            return "reserved", told, (worker.reserved_for,)
        return None

    def _assess(self, worker: Worker, kind: _Kind, wait_seconds: float) -> _Why | None:
        """Adds the worker to the open, the prospective or the waiting ones, or says why not."""
        least_seconds, load_costs, run_p50, second_costs, samples, _why = kind
        planned, sizes, now_ms = worker.planned, self._sizes, self._now_ms
        missing_bytes, load_seconds, tier = 0, 0.0, Tier.VRAM
        taken = not worker.accepts or worker.places >= worker.depth - self._places_kept
        full = taken and not self._hypothetical
        lacks = self._largest not in planned or not sizes.keys() <= planned.keys()
        if worker.warm_ms != worker.available_ms and (
            lacks or full or not worker.coming.isdisjoint(sizes)
        ):
            wait_seconds = max(0, worker.available_ms - now_ms) / 1000
        if lacks:
            if full and not self._scarce:
                return "depth", _DEPTH, (len(worker.held), worker.depth)
            missing_bytes, load_seconds, tier = self._load(worker, planned)
            if self._scarce:
                wait_seconds = _beside_load(worker, wait_seconds - load_seconds, now_ms, full)
        if full:
            wait_seconds += self._query.queued_on.get(worker.worker_id, 0) * run_p50
        score_seconds = least_seconds + wait_seconds + load_costs * load_seconds
        if score_seconds > self.best_seconds:
            return None
        if self._deadline_ms:
            # An unlearned run time is a guess, and no ground for refusing somebody.
            surely = wait_seconds + load_seconds + (run_p50 if samples else 0.0)
            if now_ms + surely * 1000 > self._deadline_ms:
                return "deadline", "would end {:.1f} s from now", (surely,)
        held, worker_id = len(worker.held), worker.worker_id
        if full:
            self._waiting.append((score_seconds, missing_bytes, held, worker_id))
            if score_seconds < self._awaited_seconds and not self.explains:
                self._awaited_seconds = score_seconds
            return "depth", _DEPTH, (held, worker.depth)
        need_bytes = worker.planned_bytes + missing_bytes - worker.kind.vram_bytes
        need_bytes += worker.working_bytes(self._working_bytes)
        if need_bytes > 0:
            rest = (worker, kind, wait_seconds, load_seconds, tier, need_bytes)
            self._prospects.append((score_seconds, missing_bytes, held, worker_id, rest))
        else:
            terms = (run_p50, second_costs, wait_seconds, load_seconds, tier, 0.0, ())
            self._add((score_seconds, missing_bytes, held, worker_id, terms))
        return None

    def _add(self, scored: Scored) -> None:
        self._open.append(scored)
        if scored[0] < self.best_seconds and not self.explains:
            self.best_seconds = scored[0]
            if self.best_seconds < self._awaited_seconds:
                self._awaited_seconds = self.best_seconds

    def _load(self, worker: Worker, planned: Mapping[Digest, int]) -> tuple[int, float, Tier]:
        """Missing bytes, the seconds to bring them, and the farthest tier they come from."""
        pinned, on_disk = worker.pinned, worker.on_disk
        pinned_bytes = disk_bytes = remote_bytes = 0
        for digest, size_bytes in self._sizes.items():
            if digest in planned:
                continue
            if digest in pinned:
                pinned_bytes += size_bytes
            elif digest in on_disk:
                disk_bytes += size_bytes
            else:
                remote_bytes += size_bytes
        from_pinned, from_disk, from_remote = self._estimates.load_lines(worker.worker_id)
        seconds, farthest = 0.0, Tier.VRAM
        if pinned_bytes:
            latency_seconds, seconds_per_byte = from_pinned
            seconds, farthest = latency_seconds + pinned_bytes * seconds_per_byte, Tier.PINNED
        if disk_bytes:
            latency_seconds, seconds_per_byte = from_disk
            seconds += latency_seconds + disk_bytes * seconds_per_byte
            farthest = Tier.DISK
        if remote_bytes:
            latency_seconds, seconds_per_byte = from_remote
            seconds += latency_seconds + remote_bytes * seconds_per_byte
            farthest = Tier.REMOTE
        return pinned_bytes + disk_bytes + remote_bytes, seconds, farthest

    def _make_room(self, prospect: _Prospect) -> None:
        """Scores a worker that something must leave, or says that too little can."""
        score_seconds, missing_bytes, held, worker_id, rest = prospect
        worker, kind, wait_seconds, load_seconds, tier, need_bytes = rest
        evict = choose_victims(worker.evictable(), self._sizes, need_bytes)
        if evict is None:
            if not self._query.hypothetical:
                told = "{} bytes more than can be freed now"
                self._refused.append((worker_id, "vram_in_use", told, (need_bytes,)))
                return
            evict = ()
        reload_seconds = self._policy.eviction_weight * worker.credits.reload_seconds(evict)
        score_seconds += reload_seconds
        terms = (kind[2], kind[3], wait_seconds, load_seconds, tier, reload_seconds, evict)
        self._add((score_seconds, missing_bytes, held, worker_id, terms))

    # ---- one class of workers ----------------------------------------------------------------

    def _on(self, of: WorkerClass, number: int) -> _Kind:
        job = self._job
        run = self._estimates.run_seconds(job.model.id, of.gpu_type, job.work_units)
        run_p50, run_p95, samples = run
        second_costs = self._lambda * of.rate_nanodollars_per_second
        load_costs = 1.0 + self._policy.load_weight + second_costs
        why = self._class_refusal(of, run_p95)
        kind = (run_p50 * (1.0 + second_costs), load_costs, run_p50, second_costs, samples, why)
        self._kinds[number] = kind
        return kind

    def _suits(self, worker: Worker) -> bool:
        return self._on(worker.kind, worker.kind_number)[5] is None

    def _class_refusal(self, of: WorkerClass, run_p95: float) -> _Why | None:
        """Why none of a class is in question."""
        if of.dedicated_to != self._pool:
            if of.dedicated_to is not None:
                return "dedicated", "to {}", (of.dedicated_to,)
            return "dedicated", "the endpoint runs on workers that are reserved for it", ()
        if self._wanted_bytes > of.vram_bytes:
            told = "needs {} bytes of {}, even when empty"
            return "vram", told, (self._wanted_bytes, of.vram_bytes)
        if cap := self._job.price_cap_nanodollars:
            price = self._price_nanodollars(of, run_p95)
            if price > cap:
                told = f"{dollars(price)} at p95 is over the cap of {dollars(cap)}"
                return "price_cap", "{}", (told,)
        return None

    def _price_nanodollars(self, kind: WorkerClass, run_seconds: float) -> int:
        """What the caller pays there; the price term of the score goes by what the GPU is worth."""
        prices, job = self._fleet.prices, self._job
        if prices is None:
            return round(run_seconds * kind.rate_nanodollars_per_second)
        return round(
            prices.expected_nanodollars(job.model.id, kind.gpu_type, job.outputs, run_seconds)
        )

    # ---- the choice --------------------------------------------------------------------------

    def _hinted_or(self, best: Scored, considered: Considered) -> Scored:
        for scored in self._open:
            if scored[3] == self._job.worker_hint:
                late = _finish(considered.candidate(scored)) - _finish(considered.candidate(best))
                return scored if late <= self._policy.hint_slack_seconds else best
        return best


_DEPTH = "holds {} of {} attempts"


def _beside_load(worker: Worker, hidden_seconds: float, now_ms: int, full: bool) -> float:
    """How long a request waits besides its load, which goes on while others run: as much as they
    outlast it (`hidden_seconds`, perhaps less than nothing), and at least until it can begin, after
    the loads of the others and, on a full worker, after an end."""
    begins_ms = max(worker.loads_until_ms, now_ms)
    if full:
        begins_ms = max(begins_ms, min([held.expected_end_ms for held in worker.held.values()]))
    return max(hidden_seconds, (begins_ms - now_ms) / 1000)


def _finish(candidate: Candidate) -> float:
    return candidate.drain_seconds + candidate.load_seconds + candidate.run_seconds
