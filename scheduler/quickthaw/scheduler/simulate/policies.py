"""The policies that ours is compared with.

Baselines place a request when it arrives, on a worker's own first-come queue, and leave eviction to
the worker (least recently used). They know each worker's residency and backlog exactly and at once,
which is more than their originals do; where they need times they are told the true rates. So a win
over them is a win over their rule, not over stale news.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from random import Random

from quickthaw.scheduler.core.model import Digest, ModelSpec, Tier
from quickthaw.scheduler.simulate.port import Assign, Order
from quickthaw.scheduler.simulate.traces import Arrival
from quickthaw.scheduler.simulate.world import Attempt, Change, VirtualWorker


class Baseline(ABC):
    """What all baselines share; each chooses in `choose`."""

    def __init__(self, workers: Sequence[VirtualWorker], random: Random) -> None:
        self.random = random
        self.fleet = list(workers)
        self.backlog: dict[str, int] = {worker.name: 0 for worker in workers}
        self.holders: dict[Digest, OrderedDict[str, VirtualWorker]] = {}
        self.by_name = {worker.name: worker for worker in workers}
        self.buckets: list[OrderedDict[str, None]] = [OrderedDict.fromkeys(self.backlog)]
        self.queued_seconds: dict[str, float] = dict.fromkeys(self.backlog, 0.0)
        self._homeless: list[tuple[str, Arrival, ModelSpec]] = []
        self._given: dict[str, tuple[Arrival, ModelSpec, float]] = {}
        self._out: list[Order] = []

    # ---- the rule ----------------------------------------------------------------------------

    @abstractmethod
    def choose(self, model: ModelSpec, arrival: Arrival) -> VirtualWorker:
        """One of `fleet`, which is not empty."""

    def least_loaded(self, workers: Iterable[VirtualWorker] | None = None) -> VirtualWorker:
        if workers is not None:
            return min(workers, key=lambda each: (self.backlog[each.name], each.name))
        first = next(bucket for bucket in self.buckets if bucket)
        return self.by_name[next(iter(first))]

    def residents(self, model: ModelSpec) -> Collection[VirtualWorker]:
        """Workers that have the model's largest part in VRAM: what tells it from others."""
        held = self.holders.get(next(iter(model.sizes)))
        return held.values() if held else ()

    # ---- the port ----------------------------------------------------------------------------

    def arrived(self, key: str, arrival: Arrival, model: ModelSpec, now: float) -> None:
        if not self.fleet:
            self._homeless.append((key, arrival, model))
            return
        worker = self.choose(model, arrival)
        if model.weight_bytes + model.working_bytes > worker.kind.vram_bytes:
            # None of these rules knows of sizes; where the model cannot fit, the next that can.
            room = model.weight_bytes + model.working_bytes
            worker = self.least_loaded(w for w in self.fleet if w.kind.vram_bytes >= room)
        seconds = arrival.run_seconds / worker.kind.speed
        self._given[key] = (arrival, model, seconds)
        self.queued_seconds[worker.name] += seconds
        self._count(worker, +1)
        self._out.append(Assign(worker, Attempt(key, model, arrival.run_seconds)))

    def _count(self, worker: VirtualWorker, more: int) -> None:
        name, before = worker.name, self.backlog[worker.name]
        self.buckets[before].pop(name, None)
        self.backlog[name] = before + more
        while len(self.buckets) <= before + more:
            self.buckets.append(OrderedDict())
        if worker.alive:
            self.buckets[before + more][name] = None

    def began_load(self, worker: VirtualWorker, attempt: Attempt, now: float) -> None:
        return  # a rule that places at arrival has nothing to learn from it

    def began_run(self, worker: VirtualWorker, attempt: Attempt, now: float) -> None:
        return  # a rule that places at arrival has nothing to learn from it

    def ended(
        self, worker: VirtualWorker, attempt: Attempt, run_seconds: float, now: float
    ) -> None:
        self.queued_seconds[worker.name] -= self._given.pop(attempt.key)[2]
        self._count(worker, -1)

    def changed(self, worker: VirtualWorker, change: Change, now: float) -> None:
        for digest, tier, _size in change.removed:
            if tier is Tier.VRAM:
                self.holders[digest].pop(worker.name, None)
        for digest, tier, _size in change.added:
            if tier is Tier.VRAM:
                self.holders.setdefault(digest, OrderedDict())[worker.name] = worker

    def left(self, worker: VirtualWorker, lost: Sequence[Attempt], now: float) -> None:
        self.fleet.remove(worker)
        self.buckets[self.backlog[worker.name]].pop(worker.name, None)
        self.backlog[worker.name], self.queued_seconds[worker.name] = 0, 0.0
        for held in self.holders.values():
            held.pop(worker.name, None)
        for attempt in lost:
            arrival, model, _ = self._given.pop(attempt.key)
            self.arrived(attempt.key, arrival, model, now)

    def came(self, worker: VirtualWorker, now: float) -> None:
        self.fleet.append(worker)
        self.buckets[0][worker.name] = None
        homeless, self._homeless = self._homeless, []
        for key, arrival, model in homeless:
            self.arrived(key, arrival, model, now)

    def tick(self, now: float) -> None:
        return  # a rule that places at arrival has nothing to learn from it

    def next_tick(self) -> float | None:
        return None

    def stopped(
        self, worker: VirtualWorker, attempt: Attempt, run_seconds: float, now: float
    ) -> None:
        return  # none of these rules stops anything

    def orders(self) -> Sequence[Order]:
        out, self._out = self._out, []
        return out


class RandomChoice(Baseline):
    """Any worker."""

    def choose(self, model: ModelSpec, arrival: Arrival) -> VirtualWorker:
        return self.random.choice(self.fleet)


class RoundRobin(Baseline):
    """One after the other."""

    _next = 0

    def choose(self, model: ModelSpec, arrival: Arrival) -> VirtualWorker:
        self._next = (self._next + 1) % len(self.fleet)
        return self.fleet[self._next]


class LeastLoaded(Baseline):
    """The shortest queue."""

    def choose(self, model: ModelSpec, arrival: Arrival) -> VirtualWorker:
        return self.least_loaded()


class TwoChoices(Baseline):
    """The shorter queue of two at random (Mitzenmacher, 2001), as Ray Serve routes."""

    def choose(self, model: ModelSpec, arrival: Arrival) -> VirtualWorker:
        return self.least_loaded((self.random.choice(self.fleet), self.random.choice(self.fleet)))


class ResidentFirst(Baseline):
    """The least loaded of those that have the model; of all if none has."""

    def choose(self, model: ModelSpec, arrival: Arrival) -> VirtualWorker:
        found = self.residents(model)
        return self.least_loaded(found) if found else self.least_loaded()


class StartTime(Baseline):
    """ServerlessLLM (OSDI 2024): the least sum of queueing and loading time, `q + n / b`."""

    SAMPLED = 16

    def choose(self, model: ModelSpec, arrival: Arrival) -> VirtualWorker:
        fleet = self.fleet
        some = fleet if len(fleet) <= 64 else self.random.sample(fleet, self.SAMPLED)
        near = islice(self.residents(model), self.SAMPLED)
        return min((*near, self.least_loaded(), *some), key=lambda each: self._start(each, model))

    def _start(self, worker: VirtualWorker, model: ModelSpec) -> tuple[float, str]:
        seconds = self.queued_seconds[worker.name]
        for digest, size_bytes in model.sizes.items():
            speed = worker.kind.tiers[worker.tier_of(digest)]
            seconds += speed.latency_seconds + size_bytes / speed.bytes_per_second
        return seconds, worker.name


class Mesh(Baseline):
    """ModelMesh: requests go to loaded copies; a busy model gets one more, up to a third of the
    fleet, on the worker whose least recently used model is oldest (here: that dropped or loaded
    something longest ago), among the less loaded half of a sample."""

    BUSY = 3
    SAMPLED = 16

    def __init__(self, workers: Sequence[VirtualWorker], random: Random) -> None:
        super().__init__(workers, random)
        self._loaded: dict[str, float] = {}

    def choose(self, model: ModelSpec, arrival: Arrival) -> VirtualWorker:
        copies = self.residents(model)
        if copies:
            best = self.least_loaded(copies)
            busy = self.backlog[best.name] >= self.BUSY
            if not (busy and len(copies) < max(1, len(self.fleet) // 3)):
                return best
        some = self.random.sample(self.fleet, min(self.SAMPLED, len(self.fleet)))
        some.sort(key=lambda each: (self.backlog[each.name], each.name))
        quieter = some[: max(1, len(some) // 2)]
        return min(quieter, key=lambda each: (self._loaded.get(each.name, 0.0), each.name))

    def changed(self, worker: VirtualWorker, change: Change, now: float) -> None:
        super().changed(worker, change, now)
        self._loaded[worker.name] = now


BASELINES: Mapping[str, type[Baseline]] = {
    "random": RandomChoice,
    "round robin": RoundRobin,
    "least loaded": LeastLoaded,
    "two choices": TwoChoices,
    "resident first": ResidentFirst,
    "serverlessllm": StartTime,
    "modelmesh": Mesh,
}
