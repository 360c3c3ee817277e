"""The workers as the core knows them, and the index by which placement finds candidates.

What a worker *will* hold when it has done everything that it was told, its plan, is what counts:
(in VRAM, less what an open attempt evicts) and everything that open attempts need. Every Assign
repeats the evictions that are not confirmed yet, so that the plan holds whichever of the open
attempts the worker really gets to; and a component that one attempt brings is there for the next,
which makes loads single-flight.

Changes go through `Fleet`, which keeps the index in step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.eviction import GreedyDual
from quickthaw.scheduler.core.model import (
    AttemptId,
    Digest,
    ModelSpec,
    RequestId,
    Residency,
    Tier,
    WorkerId,
    WorkerSpec,
    WorkerState,
)

LOWER_TIERS = (Tier.PINNED, Tier.DISK)


class WorkerClass(NamedTuple):
    """Workers that are alike to placement but for what they hold."""

    gpu_type: str
    rate_nanodollars_per_second: int
    vram_bytes: int


class Held:
    """An open attempt on a worker: what it keeps in VRAM, what it makes leave, when it may end."""

    __slots__ = ("evicts", "expected_end_ms", "expected_load_seconds", "load_tier", "model")

    def __init__(
        self,
        model: ModelSpec,
        evicts: Iterable[Digest],
        expected_end_ms: int,
        expected_load_seconds: float = 0.0,
        load_tier: Tier = Tier.VRAM,
    ) -> None:
        self.model = model
        self.evicts = set(evicts)
        self.expected_end_ms = expected_end_ms
        self.expected_load_seconds = expected_load_seconds
        self.load_tier = load_tier


class Worker:
    """One worker. Read it freely; change it through `Fleet` only."""

    __slots__ = (
        "attached_ms",
        "available_ms",
        "connected",
        "cordoned",
        "credits",
        "depth",
        "draining",
        "held",
        "indexed",
        "kind",
        "last_heard_ms",
        "planned",
        "planned_bytes",
        "reserved_for",
        "resident",
        "spec",
        "stop",
        "worker_id",
    )

    def __init__(self, spec: WorkerSpec, kind: WorkerClass, depth: int, now_ms: int) -> None:
        self.spec = spec
        self.worker_id = spec.worker_id
        self.kind = kind
        self.depth = depth
        """Attempts that it may hold at once."""
        self.attached_ms = now_ms
        self.last_heard_ms = now_ms
        self.indexed = False
        """Its components are in the fleet's index: while it is ready."""
        self.connected = True
        self.cordoned = False
        self.draining = False
        self.stop = False
        self.reserved_for: RequestId | None = None
        """A request that was passed over too often: nothing else is placed here."""
        self.resident: dict[Tier, dict[Digest, int]] = {tier: {} for tier in Tier}
        """Digest to size, by tier, as the worker reported it."""
        self.held: dict[AttemptId, Held] = {}
        self.credits = GreedyDual()
        self.planned: dict[Digest, int] = {}
        self.planned_bytes = 0
        self.available_ms = 0
        """When one attempt more could begin to run; in the past if it could at once."""

    @property
    def state(self) -> WorkerState:
        if not self.connected:
            return WorkerState.DISCONNECTED
        if self.draining:
            return WorkerState.DRAINING
        return WorkerState.CORDONED if self.cordoned else WorkerState.READY

    @property
    def ready(self) -> bool:
        return self.connected and not self.draining and not self.cordoned

    @property
    def accepts(self) -> bool:
        """It is ready and has a place left."""
        return len(self.held) < self.depth and self.ready

    def working_bytes(self, more: int = 0) -> int:
        """Of the attempts that may run at once, the hungriest, `more` being one more attempt's."""
        workings = [held.model.working_bytes for held in self.held.values()]
        workings.append(more)
        if len(workings) > self.spec.concurrency:
            workings.sort(reverse=True)
            del workings[self.spec.concurrency :]
        return sum(workings)

    @property
    def committed_bytes(self) -> int:
        """What it will use at most: never over its VRAM by our decisions."""
        return self.planned_bytes + self.working_bytes()

    def evictable(self, wanted: Mapping[Digest, int]) -> dict[Digest, int]:
        """What may leave VRAM: used by no open attempt, not leaving already, and not wanted."""
        needed = {digest for held in self.held.values() for digest in held.model.sizes}
        return {
            digest: size
            for digest, size in self.planned.items()
            if digest not in needed and digest not in wanted
        }

    def leaving(self) -> set[Digest]:
        """Told to go, and not reported gone yet."""
        return {digest for held in self.held.values() for digest in held.evicts}

    def tier_below(self, digest: Digest) -> Tier:
        """The nearest tier below VRAM that has the component."""
        for tier in LOWER_TIERS:
            if digest in self.resident[tier]:
                return tier
        return Tier.REMOTE

    def replan(self) -> None:
        """Works out again what follows from `resident` and `held`."""
        leaving = self.leaving()
        planned = {d: size for d, size in self.resident[Tier.VRAM].items() if d not in leaving}
        for held in self.held.values():
            planned.update(held.model.sizes)
        self.planned = planned
        self.planned_bytes = sum(planned.values())
        concurrency = self.spec.concurrency
        if len(self.held) < concurrency:
            self.available_ms = 0
        else:
            ends = sorted((held.expected_end_ms for held in self.held.values()), reverse=True)
            self.available_ms = ends[concurrency - 1]


_Ring = OrderedDict[WorkerId, None]


class Fleet:
    """All attached workers. Dictionaries keep an order, so that equal runs decide equally."""

    def __init__(self, estimates: Estimates, queue_ahead: int) -> None:
        self.workers: OrderedDict[WorkerId, Worker] = OrderedDict()
        """Longest silent first."""
        self.open_count = 0
        """Workers that accept."""
        self._estimates = estimates
        self._queue_ahead = queue_ahead
        # Per tier and component, the ready workers that have it: least recently assigned first, so
        # that a bounded look at a popular component's holders sees those with room.
        self._holders: dict[Tier, dict[Digest, _Ring]] = {tier: {} for tier in Tier}
        # Per class, who accepts, by the number of attempts held.
        self._open: dict[WorkerClass, list[_Ring]] = {}
        self._bucket: dict[WorkerId, int] = {}
        self._class_sizes: dict[WorkerClass, int] = {}

    # ---- reading -----------------------------------------------------------------------------

    def classes(self) -> Iterable[WorkerClass]:
        """Of all attached workers."""
        return self._class_sizes.keys()

    def holders(self, digest: Digest, tier: Tier) -> Iterable[WorkerId]:
        """Least recently assigned first; for VRAM by plan."""
        return self._holders[tier].get(digest, ())

    def longest_silent(self) -> Worker | None:
        return next(iter(self.workers.values()), None)

    def least_loaded(self, kind: WorkerClass) -> Iterator[WorkerId]:
        """Those of a class that accept, emptiest first."""
        for ring in self._open.get(kind, ()):
            yield from ring

    # ---- changing ----------------------------------------------------------------------------

    def attach(self, spec: WorkerSpec, rate: int, now_ms: int) -> Worker:
        """Adds a worker that holds nothing yet, in place of what was known of its id."""
        self.detach(spec.worker_id)
        kind = WorkerClass(spec.gpu_type, rate, spec.vram_bytes)
        worker = Worker(spec, kind, spec.concurrency + self._queue_ahead, now_ms)
        self.workers[spec.worker_id] = worker
        self._class_sizes[kind] = self._class_sizes.get(kind, 0) + 1
        self._open.setdefault(kind, [])
        self._estimates.worker_attached(spec)
        self.refresh(worker)
        return worker

    def detach(self, worker_id: WorkerId) -> None:
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        self._leave_bucket(worker)
        self._index(worker, ready=False)
        self._class_sizes[worker.kind] -= 1
        if self._class_sizes[worker.kind] == 0:
            del self._class_sizes[worker.kind]
            self._open.pop(worker.kind, None)

    def heard(self, worker: Worker, now_ms: int) -> None:
        """The worker has given a sign of life."""
        worker.last_heard_ms = now_ms
        self.workers.move_to_end(worker.worker_id)

    def refresh(self, worker: Worker) -> None:
        """To be called after a worker's switches (cordoned, connected, ...) were changed."""
        if worker.ready != worker.indexed:
            self._index(worker, worker.ready)
        bucket = len(worker.held) if worker.accepts else -1
        if bucket == self._bucket.get(worker.worker_id, -1):
            return
        self._leave_bucket(worker)
        if bucket >= 0:
            rings = self._open[worker.kind]
            while len(rings) <= bucket:
                rings.append(OrderedDict())
            rings[bucket][worker.worker_id] = None
            self._bucket[worker.worker_id] = bucket
            self.open_count += 1

    def change_residency(
        self, worker: Worker, added: Iterable[Residency], removed: Iterable[Residency]
    ) -> None:
        """Applies a worker's report: first what is gone, then what is new."""
        for digest, tier, _size in removed:
            if worker.resident[tier].pop(digest, None) is None:
                continue
            if tier is Tier.VRAM:
                worker.credits.gone(digest)
                for held in worker.held.values():
                    held.evicts.discard(digest)
            elif worker.indexed:
                self._drop_holder(tier, digest, worker.worker_id)
        for digest, tier, size_bytes in added:
            worker.resident[tier][digest] = size_bytes
            if tier is not Tier.VRAM and worker.indexed:
                self._add_holder(tier, digest, worker.worker_id)
        for digest, tier, _size in added:
            if tier is Tier.VRAM:
                self._touch(worker, digest)
        self._replan(worker)

    def hold(self, worker: Worker, attempt_id: AttemptId, held: Held) -> None:
        """An attempt is the worker's from now on."""
        worker.held[attempt_id] = held
        self._replan(worker)
        for digest in held.model.sizes:
            self._touch(worker, digest)
            if worker.indexed:
                self._holders[Tier.VRAM][digest].move_to_end(worker.worker_id)

    def release(self, worker: Worker, attempt_id: AttemptId) -> None:
        """The attempt has ended; evictions that it asked for and that never came are off."""
        held = worker.held.pop(attempt_id, None)
        if held is None:
            return
        self._replan(worker)
        for digest in held.model.sizes:
            ring = self._holders[Tier.VRAM].get(digest)
            if ring is not None and worker.worker_id in ring:
                ring.move_to_end(worker.worker_id, last=False)

    def expect_end(self, worker: Worker, attempt_id: AttemptId, expected_end_ms: int) -> None:
        worker.held[attempt_id].expected_end_ms = expected_end_ms
        worker.replan()

    # ---- keeping the index -------------------------------------------------------------------

    def _replan(self, worker: Worker) -> None:
        before = worker.planned
        worker.replan()
        if worker.indexed:
            for digest in before:
                if digest not in worker.planned:
                    self._drop_holder(Tier.VRAM, digest, worker.worker_id)
            for digest in worker.planned:
                if digest not in before:
                    self._add_holder(Tier.VRAM, digest, worker.worker_id)
        self.refresh(worker)

    def _index(self, worker: Worker, ready: bool) -> None:
        """Takes the worker's components into the index or out of it."""
        change = self._add_holder if ready else self._drop_holder
        if ready != worker.indexed:
            worker.indexed = ready
            for digest in worker.planned:
                change(Tier.VRAM, digest, worker.worker_id)
            for tier in LOWER_TIERS:
                for digest in worker.resident[tier]:
                    change(tier, digest, worker.worker_id)

    def _touch(self, worker: Worker, digest: Digest) -> None:
        size_bytes = worker.planned.get(digest) or worker.resident[Tier.VRAM].get(digest, 0)
        below = worker.tier_below(digest)
        reload = self._estimates.load_seconds(worker.worker_id, below, size_bytes)
        worker.credits.touch(digest, size_bytes, reload.p50)

    def _add_holder(self, tier: Tier, digest: Digest, worker_id: WorkerId) -> None:
        self._holders[tier].setdefault(digest, OrderedDict())[worker_id] = None

    def _drop_holder(self, tier: Tier, digest: Digest, worker_id: WorkerId) -> None:
        ring = self._holders[tier].get(digest)
        if ring is not None:
            ring.pop(worker_id, None)
            if not ring:
                del self._holders[tier][digest]

    def _leave_bucket(self, worker: Worker) -> None:
        bucket = self._bucket.pop(worker.worker_id, None)
        if bucket is not None:
            del self._open[worker.kind][bucket][worker.worker_id]
            self.open_count -= 1
