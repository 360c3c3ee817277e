"""One pass over the queue: who of those that wait is placed now, and who goes before whom.

The pass follows the fair order but does not stop at a request that no worker can take:

- A realtime session's next input goes first while the session holds its worker (`Job.ahead`): one
  for each worker at most, so others wait for one run more, and its tenant is charged for it.
- A request that its tenant's or its endpoint's limit holds back (`limits`) is not even looked at.
- A request for which no worker is found is passed over. After `bypass_max` later ones were placed,
  or after `wait_limit_ms`, it reserves a worker, which then takes nothing else, so that it runs as
  soon as that one is free.
- A request that would have to load gives way to later ones that are warm on the worker in
  question, if their tenants are not too far ahead in the fair order (`collation_lead_ms`, the
  throttle of MQFQ-Sticky) and it is not overtaken yet, in either way. If there is none, it is
  placed: no worker idles for the sake of residency.
- A request may wait for a full worker that has its model when that is better than a load
  elsewhere; at most as long as that would have cost.

So nobody starves: a request whose turn it is starts within `wait_limit_ms`, and what the worker
with the least left to do needs for that, and its own load and run. (It is its turn when nobody is
before it in the fair order; workers that are lost, cordoned or full of longer work than was
estimated put it off by as much.)
"""

from __future__ import annotations

import math
from itertools import islice

from quickthaw.scheduler.core import attempts, money
from quickthaw.scheduler.core.decisions import Candidate, Decision
from quickthaw.scheduler.core.endings import end_in_queue
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptId, Job, ModelSpec, WorkerId
from quickthaw.scheduler.core.placement import place, place_on
from quickthaw.scheduler.core.query import Placement, Query, Unplaced
from quickthaw.scheduler.core.requests import end_if_hopeless
from quickthaw.scheduler.core.state import State
from quickthaw.scheduler.core.waiting import Tried, Waiting
from quickthaw.scheduler.core.worker import Worker

CAPACITY_REASONS = frozenset({"depth", "vram_in_use", "alone"})
"""Refusals that pass with time: a worker worth reserving."""

RIVALS_LOOKED_AT_MAX = 32
"""Requests for one component that are looked at to find one that is warm and may go first."""

RETRY_WORKERS_MAX = 8
"""A request is tried again on the workers that changed since its last try, up to so many; when more
did, on all."""


def plan(state: State) -> None:
    """Places what can be placed."""
    if state.fleet.open_count and len(state.queue):
        state.limits.open_gates()
        _Pass(state).run()


class _Pass:
    __slots__ = ("_hopeless", "_misses", "_queued_on", "_rivals", "_skipped", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._misses = 0
        # Those passed over so far, in the fair order.
        self._skipped: list[Waiting] = []
        self._queued_on: dict[WorkerId, int] = {}
        # Snapshots for which no worker was found in this pass: their next request need not ask.
        self._hopeless: set[str] = set()
        self._rivals = 0

    def run(self) -> None:
        state = self._state
        settings = state.settings
        for waiting in state.queue.ahead():
            if state.fleet.open_count and waiting.job.request_id in state.queue:
                self._visit(waiting)
        for waiting in state.queue.in_order(settings.look_ahead_visits):
            if not state.fleet.open_count or self._misses >= settings.look_ahead:
                break
            # Not placed out of turn meanwhile, and not visited above.
            if waiting.job.request_id in state.queue and not waiting.job.ahead:
                self._visit(waiting)
        for waiting in self._skipped:
            if self._overtaken(waiting) and waiting.job.request_id in state.queue:
                self._reserve(waiting)

    def _overtaken(self, waiting: Waiting) -> bool:
        """It has been passed over often or long enough."""
        settings, since_ms = self._state.settings, waiting.passed_over_ms
        late = since_ms and self._state.now_ms - since_ms >= settings.wait_limit_ms
        return bool(late) or waiting.bypassed >= settings.bypass_max

    def _skip(self, waiting: Waiting) -> None:
        """It was its turn, and it is not placed."""
        self._skipped.append(waiting)
        waiting.passed_over_ms = waiting.passed_over_ms or self._state.now_ms

    def _visit(self, waiting: Waiting) -> None:
        state, job = self._state, waiting.job
        if (held := state.limits.may_start(job)) is not None:
            if (unpayable := money.unpayable(state, job)) is not None:
                end_in_queue(state, state.requests[job.request_id], RequestState.FAILED, unpayable)
            else:
                state.limits.hold(job, held)
            return
        tracked = state.requests[job.request_id]
        overtaken = self._overtaken(waiting)
        special = job.deadline_ms or job.price_cap_nanodollars or tracked.lost_on or overtaken
        digest = job.model.snapshot_digest
        if (digest in self._hopeless and not special) or not self._fits_somewhere(job.model):
            self._skip(waiting)
            return
        impatient = 0 < waiting.impatient_at_ms <= state.now_ms
        query = Query(
            job,
            tracked.lost_on,
            not (overtaken or impatient),
            self._queued_on,
            alone=bool(tracked.killed_on),
            choosy=len(state.queue) == state.queue.length_of(job.tenant),
        )
        tried = None if special or impatient else waiting.tried
        if tried and tried.choosy == query.choosy and self._still(tried, query):
            self._pass_over(waiting, tried)
            return
        while True:
            found = place(
                query, state.fleet, state.estimates, state.settings.placement, state.now_ms
            )
            if isinstance(found, Unplaced):
                if job.deadline_ms and end_if_hopeless(state, tracked):
                    return
                self._wait(waiting, found, choosy=query.choosy, for_all=not special)
                return
            overtaken = self._overtaken(waiting)
            rival = (
                None
                if found.warm or overtaken or tracked.killed_on
                else self._rival(waiting, found)
            )
            if rival is None or not self._place_rival(rival, waiting):
                break
            if (held := state.limits.may_start(job)) is not None:
                state.limits.hold(job, held)  # the rival took the last place
                return
        self._place(waiting, found)

    def _wait(self, waiting: Waiting, found: Unplaced, *, choosy: bool, for_all: bool) -> None:
        state = self._state
        hopeless = for_all and not found.for_the_job_only
        waiting.tried = Tried(
            found.considered, state.fleet.version, found.waits_for, hopeless, choosy
        )
        self._decide(waiting, None, found, "")
        if found.waits_for is not None and waiting.impatient_at_ms == 0:
            wait_ms = max(1, math.ceil(found.wait_seconds * 1000))
            waiting.impatient_at_ms = state.now_ms + wait_ms
            state.impatience.set(waiting.job.request_id, waiting.impatient_at_ms)
        self._pass_over(waiting, waiting.tried)

    def _rival(self, waiting: Waiting, found: Placement) -> Waiting | None:
        """The first to arrive of those for which the chosen worker has everything."""
        state, settings = self._state, self._state.settings
        if self._rivals >= settings.collation_max:
            return None
        worker = state.fleet.workers[found.chosen.worker_id]
        rate = worker.kind.rate_nanodollars_per_second
        lead_max = attempts.fair_nanodollars(settings.collation_lead_ms, rate)
        best: Waiting | None = None
        for digest in worker.planned:
            for rival in islice(state.queue.wanting(digest), RIVALS_LOOKED_AT_MAX):
                if rival is waiting or not rival.job.model.sizes.keys() <= worker.planned.keys():
                    continue
                if state.limits.may_start(rival.job) is not None:
                    continue
                if best is None or rival.rank < best.rank:
                    if state.queue.lead(rival) > lead_max:
                        continue
                    best = rival
                break
        return best

    def _place_rival(self, rival: Waiting, waiting: Waiting) -> bool:
        """Places a warm one out of turn; False if no worker takes it after all."""
        state, job = self._state, rival.job
        self._rivals += 1
        tracked = state.requests[job.request_id]
        alone = bool(tracked.killed_on)
        query = Query(job, tracked.lost_on, False, self._queued_on, alone=alone)
        found = place(query, state.fleet, state.estimates, state.settings.placement, state.now_ms)
        if isinstance(found, Unplaced) or not found.warm:
            return False
        waiting.bypassed += 1
        waiting.passed_over_ms = waiting.passed_over_ms or state.now_ms
        self._place(rival, found)
        return True

    def _fits_somewhere(self, model: ModelSpec) -> bool:
        wanted = model.weight_bytes + model.working_bytes
        fleet = self._state.fleet
        pool = fleet.pool_of(model.id)
        return any(
            kind.vram_bytes >= wanted and kind.dedicated_to == pool for kind in fleet.classes()
        )

    def _place(self, waiting: Waiting, found: Placement) -> None:
        state, job = self._state, waiting.job
        tracked = state.requests[job.request_id]
        why = describe(found)
        if found.warm and state.fleet.workers[found.chosen.worker_id].overtaken_by(job.model):
            why += "; runs while others load"
        if not attempts.place(state, tracked, found.chosen, why):
            self._misses += 1
            self._skip(waiting)
            return
        for earlier in self._skipped:
            if earlier.rank != waiting.rank:
                earlier.bypassed += 1
        self._decide(waiting, found.chosen.worker_id, found, found.tie_break)
        if job.batch_key:
            self._fill(waiting, found)

    def _fill(self, first: Waiting, found: Placement) -> None:
        """Others that are alike run along with it, as one batch, where the worker does that and
        their tenants are not too far ahead in the fair order."""
        state, job = self._state, first.job
        worker = state.fleet.workers[found.chosen.worker_id]
        if not worker.batches(job.model, job.batch_key):
            return
        rate = worker.kind.rate_nanodollars_per_second
        lead_max = attempts.fair_nanodollars(state.settings.collation_lead_ms, rate)
        wanting = state.queue.wanting(next(iter(job.model.sizes)))
        run = attempts.opened(state.requests[job.request_id]).attempt_id
        worker.held[run].run = run
        room = worker.spec.batch_max - 1
        for mate in list(islice(wanting, RIVALS_LOOKED_AT_MAX)):
            if not room:
                return
            if self._is_mate(mate, job) and state.queue.lead(mate) <= lead_max:
                room -= self._place_mate(mate, worker, run)

    def _is_mate(self, mate: Waiting, job: Job) -> bool:
        """It may run in one batch with the job, now. One that was lost before runs by itself."""
        other = mate.job
        return (
            other.batch_key == job.batch_key
            and other.model.snapshot_digest == job.model.snapshot_digest
            and not self._state.requests[other.request_id].lost_on
            and self._state.limits.may_start(other) is None
        )

    def _place_mate(self, mate: Waiting, worker: Worker, run: AttemptId) -> bool:
        state = self._state
        tracked = state.requests[mate.job.request_id]
        query = Query(mate.job, patient=False, hypothetical=True)
        found = place_on(
            query, [worker], state.fleet, state.estimates, state.settings.placement, state.now_ms
        )
        if isinstance(found, Unplaced) or not found.warm:
            return False
        why = f"{describe(found)}; in one run with {run}"
        if not attempts.place(state, tracked, found.chosen, why, run):
            return False
        self._decide(mate, worker.worker_id, found, found.tie_break)
        return True

    def _still(self, tried: Tried, query: Query) -> bool:
        """Whether nothing that changed since the last try could take the request, so that it need
        not be tried on everybody else again."""
        state = self._state
        fleet = state.fleet
        changed = fleet.changed_since(tried.fleet_version, RETRY_WORKERS_MAX)
        if changed is None:
            return False
        awaited: Worker | None = None
        if tried.waits_for is not None:
            awaited = fleet.workers.get(tried.waits_for)
            if awaited is None or awaited in changed:
                return False
        if not any(worker.accepts for worker in changed):
            return True
        if awaited is not None:
            changed.append(awaited)
        now = place_on(
            query, changed, fleet, state.estimates, state.settings.placement, state.now_ms
        )
        return isinstance(now, Unplaced)

    def _pass_over(self, waiting: Waiting, tried: Tried) -> None:
        self._skip(waiting)
        waiting.tried = tried._replace(fleet_version=self._state.fleet.version)
        if tried.hopeless:
            self._hopeless.add(waiting.job.model.snapshot_digest)
        if tried.waits_for is None:
            self._misses += 1
        else:
            self._queued_on[tried.waits_for] = self._queued_on.get(tried.waits_for, 0) + 1

    def _decide(
        self,
        waiting: Waiting,
        chosen: WorkerId | None,
        found: Placement | Unplaced,
        tie_break: str,
    ) -> None:
        state, request_id = self._state, waiting.job.request_id
        attempt = state.requests[request_id].attempts + (chosen is None)
        decision = Decision(attempt, state.now_ms, chosen, found.considered, tie_break)
        state.decisions.add(request_id, decision)

    def _reserve(self, waiting: Waiting) -> None:
        """Keeps the worker that is free soonest for a request that was passed over too often."""
        state, request_id = self._state, waiting.job.request_id
        if (kept := state.reservations.get(request_id)) is not None:
            worker = state.fleet.workers.get(kept)
            if worker is not None and worker.reserved_for == request_id and worker.ready:
                return
            attempts.unreserve(state, request_id)
        if waiting.tried is None:
            return
        free = [
            (max((held.expected_end_ms for held in worker.held.values()), default=0), worker_id)
            for worker_id in waiting.tried.considered.refused_for(CAPACITY_REASONS)
            if (worker := state.fleet.workers.get(worker_id)) is not None
            and worker.reserved_for is None
        ]
        if free:
            _free_ms, worker_id = min(free)
            state.fleet.workers[worker_id].reserved_for = request_id
            state.reservations[request_id] = worker_id


def describe(found: Placement) -> str:
    """One line for people: why this worker."""
    chosen: Candidate = found.chosen
    others = found.considered.candidates_count - 1
    where = "all of it in VRAM" if found.warm else f"from {chosen.start_tier.name.lower()}"
    told = (
        f"{chosen.worker_id}: {where}, wait {chosen.drain_seconds:.2f} s, load "
        f"{chosen.load_seconds:.2f} s, run {chosen.run_seconds:.2f} s; best of {others + 1}"
    )
    return f"{told}; tie broken by {found.tie_break}" if found.tie_break else told
