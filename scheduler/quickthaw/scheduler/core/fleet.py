"""All attached workers, and the index by which placement finds candidates without a scan.

Changes to a worker go through `Fleet`, which keeps the index in step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count, islice

from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.model import (
    AttemptId,
    Digest,
    ModelId,
    ModelSpec,
    Residency,
    Tier,
    WorkerId,
    WorkerSpec,
    WorkerState,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.worker import LOWER_TIERS, Held, Worker, WorkerClass

_Ring = OrderedDict[Worker, None]
"""Workers in an order, by identity: nothing of them is read to find the next."""


class Lot:
    """The workers of one class. Those that accept are in rings by the number of runs they hold."""

    __slots__ = ("kind", "number", "rings", "size")

    def __init__(self, kind: WorkerClass, number: int) -> None:
        self.kind = kind
        self.number = number
        """A small one, no other class's while this one has workers."""
        self.size = 0
        """All workers, also those that do not accept."""
        self.rings: list[_Ring] = []

    def least_loaded(self) -> Iterator[Worker]:
        """Those that accept, emptiest first."""
        for ring in self.rings:
            yield from ring

    def emptiest(self, limit: int) -> list[Worker]:
        """The first of `least_loaded`."""
        found: list[Worker] = []
        for ring in self.rings:
            if ring:
                found += islice(ring, limit - len(found))
                if len(found) == limit:
                    break
        return found


class Fleet:
    """All attached workers. Dictionaries keep an order, so that equal runs decide equally."""

    def __init__(self, estimates: Estimates, queue_ahead: int) -> None:
        self.workers: OrderedDict[WorkerId, Worker] = OrderedDict()
        """Longest silent first."""
        self.open_count = 0
        """Workers that accept."""
        self._idle: set[Worker] = set()
        self.prices: PriceTable | None = None
        """What callers pay, where that is not the workers' rates."""
        self.version = 0
        """Grows with whatever could let a worker take what it could not take before."""
        self._changed: OrderedDict[WorkerId, int] = OrderedDict()  # the newest last
        self._left_version = 0
        self.dedicated: set[ModelId] = set()
        """Models whose endpoints run on workers of their own alone."""
        self._estimates = estimates
        self._queue_ahead = queue_ahead
        # Per tier and component, the ready workers that have it: least recently assigned first, so
        # that a bounded look at a popular component's holders sees those with room.
        self._holders: dict[Tier, dict[Digest, _Ring]] = {tier: {} for tier in Tier}
        self._lots: dict[WorkerClass, Lot] = {}
        self._ring_of: dict[Worker, _Ring] = {}  # of its lot

    # ---- reading -----------------------------------------------------------------------------

    @property
    def idle_count(self) -> int:
        """Workers that accept and hold nothing."""
        return len(self._idle)

    def lots(self) -> Collection[Lot]:
        """The attached workers by class."""
        return self._lots.values()

    def classes(self) -> Iterable[WorkerClass]:
        """Of all attached workers."""
        return self._lots.keys()

    def class_sizes(self) -> Iterable[tuple[WorkerClass, int]]:
        """How many attached workers each class has."""
        return ((lot.kind, lot.size) for lot in self._lots.values())

    def pool_of(self, model: ModelId) -> ModelId | None:
        """What a worker must be dedicated to for this model to run there; None for nothing."""
        return model if model in self.dedicated else None

    def able(self, model: ModelSpec) -> Iterator[Worker]:
        """Ready workers of its pool that could hold it if they were empty."""
        pool = self.pool_of(model.id)
        wanted = model.weight_bytes + model.working_bytes
        for worker in self.workers.values():
            fits = worker.spec.vram_bytes >= wanted and worker.dedicated_to == pool
            if fits and worker.ready:
                yield worker

    def holding(self, digest: Digest, tier: Tier) -> Collection[Worker]:
        """Least recently assigned first; for VRAM by plan."""
        return self._holders[tier].get(digest, ())

    def holders(self, digest: Digest, tier: Tier) -> Iterable[WorkerId]:
        """As `holding`, by their ids."""
        return (worker.worker_id for worker in self.holding(digest, tier))

    def longest_silent(self) -> Worker | None:
        return next(iter(self.workers.values()), None)

    def least_loaded(self, kind: WorkerClass) -> Iterator[WorkerId]:
        """Those of a class that accept, emptiest first."""
        lot = self._lots.get(kind)
        return (worker.worker_id for worker in lot.least_loaded()) if lot is not None else iter(())

    def changed_since(self, version: int, limit: int) -> list[Worker] | None:
        """The workers that changed since `version`; None if they are more than `limit`, or one of
        them is gone: then who was out of the question for a request may be in it again."""
        if version < self._left_version:
            return None
        found: list[Worker] = []
        for worker_id, changed in reversed(self._changed.items()):
            if changed <= version:
                return found
            if len(found) == limit:
                return None
            found.append(self.workers[worker_id])
        return found

    # ---- changing ----------------------------------------------------------------------------

    def note_change(self, worker: Worker) -> None:
        """To be called after a change that does not go through the methods below."""
        self.version += 1
        self._changed[worker.worker_id] = self.version
        self._changed.move_to_end(worker.worker_id)

    def attach(self, spec: WorkerSpec, rate: int, now_ms: int) -> Worker:
        """Adds a worker that holds nothing yet, in place of what was known of its id."""
        self.detach(spec.worker_id)
        kind = WorkerClass(spec.gpu_type, rate, spec.vram_bytes)
        worker = Worker(spec, kind, spec.concurrency + self._queue_ahead, now_ms)
        self.workers[spec.worker_id] = worker
        self._enter_class(worker)
        self._estimates.worker_attached(spec)
        self.refresh(worker)
        return worker

    def detach(self, worker_id: WorkerId) -> None:
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        self.version += 1
        self._left_version = self.version
        self._changed.pop(worker_id, None)
        self._idle.discard(worker)
        self._leave_ring(worker)
        self._index(worker, ready=False)
        self._leave_class(worker)

    def dedicate(self, worker: Worker, model: ModelId | None) -> None:
        """From now on it serves this endpoint alone; None for all that are not dedicated."""
        self._leave_ring(worker)
        self._leave_class(worker)
        worker.kind = worker.kind._replace(dedicated_to=model)
        self._enter_class(worker)
        self.refresh(worker)
        # Who was out of the question for a request may be in it again.
        self._left_version = self.version

    def reprice(self, worker: Worker, rate: int) -> None:
        """What its seconds cost from now on."""
        if rate == worker.kind.rate_nanodollars_per_second:
            return
        self._leave_ring(worker)
        self._leave_class(worker)
        worker.kind = worker.kind._replace(rate_nanodollars_per_second=rate)
        self._enter_class(worker)
        self.refresh(worker)

    def heard(self, worker: Worker, now_ms: int) -> None:
        """The worker has given a sign of life."""
        worker.last_heard_ms = now_ms
        self.workers.move_to_end(worker.worker_id)

    def refresh(self, worker: Worker) -> None:
        """To be called after a worker's switches (cordoned, connected, ...) were changed."""
        self.note_change(worker)
        ready = worker.state is WorkerState.READY
        if ready != worker.ready:
            self._index(worker, ready)
        worker.accepts = ready and worker.places < worker.depth
        if worker.accepts and not worker.places:
            self._idle.add(worker)
        else:
            self._idle.discard(worker)
        ring: _Ring | None = None
        if worker.accepts:
            rings = self._lots[worker.kind].rings
            while len(rings) <= worker.places:
                rings.append(OrderedDict())
            ring = rings[worker.places]
        if ring is self._ring_of.get(worker):
            return
        self._leave_ring(worker)
        if ring is not None:
            ring[worker] = None
            self._ring_of[worker] = ring
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
                worker.unloading.discard(digest)
                for held in worker.held.values():
                    held.evicts.discard(digest)
            elif worker.ready:
                self._drop_holder(tier, digest, worker)
        for digest, tier, size_bytes in added:
            worker.resident[tier][digest] = size_bytes
            if tier is not Tier.VRAM and worker.ready:
                self._add_holder(tier, digest, worker)
        for digest, tier, size_bytes in added:
            if tier is Tier.VRAM:
                worker.incoming.pop(digest, None)
                self._touch(worker, digest, size_bytes)
            if not worker.incoming:
                worker.prefetching_until_ms = 0
        self._replan(worker)

    def hold(self, worker: Worker, attempt_id: AttemptId, held: Held) -> None:
        """An attempt is the worker's from now on."""
        worker.put_off(held)
        worker.held[attempt_id] = held
        worker.prefetching_until_ms = 0
        gave_up = bool(worker.incoming or worker.unloading)
        if gave_up:
            worker.incoming.clear()
            worker.unloading -= held.model.sizes.keys()
        for digest, size_bytes in held.model.sizes.items():
            self._touch(worker, digest, size_bytes)
        before = worker.planned
        if gave_up:
            worker.replan()
        else:
            worker.replan_for(held)
        self._replanned(worker, before)
        if worker.ready:
            for digest in held.model.sizes:
                self._holders[Tier.VRAM][digest].move_to_end(worker)

    def release(self, worker: Worker, attempt_id: AttemptId, now_ms: int) -> None:
        """The attempt has ended; evictions that it asked for and that never came are off. Those
        that wait for its place begin as much earlier, or later, than was expected."""
        held = worker.held.pop(attempt_id, None)
        if held is None:
            return
        if worker.crowded:
            gained_ms = held.expected_end_ms - now_ms
            for other in worker.held.values():
                if not other.running:
                    end_ms = other.expected_end_ms - gained_ms
                    loaded_ms = other.loaded_ms if other.loaded_ms > now_ms else now_ms
                    least_ms = loaded_ms + other.expected_run_ms
                    other.expected_end_ms = end_ms if end_ms > least_ms else least_ms
        before = worker.planned
        worker.replan_without(held)
        self._replanned(worker, before)
        for digest in held.model.sizes:
            ring = self._holders[Tier.VRAM].get(digest)
            if ring is not None and worker in ring:
                ring.move_to_end(worker, last=False)

    def expect(self, worker: Worker, sizes: Mapping[Digest, int]) -> None:
        """A prefetch is on its way to VRAM; without sizes, none is any more."""
        worker.incoming = dict(sizes)
        self._replan(worker)

    def unload(self, worker: Worker, digests: Iterable[Digest]) -> None:
        """These are told to leave VRAM; their space counts when the worker confirms."""
        worker.unloading.update(digests)
        self._replan(worker)

    def rank(self, worker: Worker, standings: Mapping[Digest, int]) -> None:
        """Which components go first and which last; see `GreedyDual.rank`."""
        if worker.credits.rank(standings):
            worker.forget_order()

    def run(self, worker: Worker, attempt_id: AttemptId, expected_end_ms: int, now_ms: int) -> None:
        """The attempt runs now, which tells its end better than what was expected before."""
        held = worker.held[attempt_id]
        held.running = True
        held.expected_end_ms = expected_end_ms
        if held.run:
            _expect_batch(worker, held, now_ms)
        if worker.crowded:
            worker.replan_runs()

    # ---- keeping the index -------------------------------------------------------------------

    def _replan(self, worker: Worker) -> None:
        before = worker.planned
        worker.replan()
        self._replanned(worker, before)

    def _replanned(self, worker: Worker, before: Mapping[Digest, int]) -> None:
        """Its plan was `before`, and may be another now."""
        if worker.ready and worker.planned is not before:
            for digest in before:
                if digest not in worker.planned:
                    self._drop_holder(Tier.VRAM, digest, worker)
            for digest in worker.planned:
                if digest not in before:
                    self._add_holder(Tier.VRAM, digest, worker)
        self.refresh(worker)

    def _index(self, worker: Worker, ready: bool) -> None:
        """Takes the worker's components into the index or out of it."""
        change = self._add_holder if ready else self._drop_holder
        if ready != worker.ready:
            worker.ready = ready
            for digest in worker.planned:
                change(Tier.VRAM, digest, worker)
            for tier in LOWER_TIERS:
                for digest in worker.resident[tier]:
                    change(tier, digest, worker)

    def _touch(self, worker: Worker, digest: Digest, size_bytes: int) -> None:
        below = worker.tier_below(digest)
        reload = self._estimates.load_seconds(worker.worker_id, below, size_bytes)
        worker.credits.touch(digest, size_bytes, reload.p50)

    def _add_holder(self, tier: Tier, digest: Digest, worker: Worker) -> None:
        self._holders[tier].setdefault(digest, OrderedDict())[worker] = None

    def _drop_holder(self, tier: Tier, digest: Digest, worker: Worker) -> None:
        ring = self._holders[tier].get(digest)
        if ring is not None:
            ring.pop(worker, None)
            if not ring:
                del self._holders[tier][digest]

    def _enter_class(self, worker: Worker) -> None:
        lot = self._lots.get(worker.kind)
        if lot is None:
            taken = {each.number for each in self._lots.values()}
            number = next(number for number in count() if number not in taken)
            lot = self._lots[worker.kind] = Lot(worker.kind, number)
        lot.size += 1
        worker.kind = lot.kind  # one object for all: what many read stays in the processor's cache
        worker.kind_number = lot.number

    def _leave_class(self, worker: Worker) -> None:
        lot = self._lots[worker.kind]
        lot.size -= 1
        if lot.size == 0:
            del self._lots[worker.kind]

    def _leave_ring(self, worker: Worker) -> None:
        if (ring := self._ring_of.pop(worker, None)) is not None:
            del ring[worker]
            self.open_count -= 1


def _expect_batch(worker: Worker, held: Held, now_ms: int) -> None:
    """An attempt's run time is its share: a batch takes as long as all of them."""
    alike = [each for each in worker.held.values() if each.running and each.run == held.run]
    end_ms = now_ms + len(alike) * (held.expected_end_ms - now_ms)
    for each in alike:
        each.expected_end_ms = end_ms
