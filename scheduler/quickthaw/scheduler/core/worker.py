"""One worker as the core knows it: what it holds, what it will hold, when it is free.

What a worker *will* hold when it has done everything that it was told, its plan, is what counts:
(in VRAM, less what an open attempt evicts) and everything that open attempts need. Every Assign
repeats the evictions that are not confirmed yet, so that the plan holds whichever of the open
attempts the worker really gets to; and a component that one attempt brings is there for the next,
which makes loads single-flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from quickthaw.scheduler.core.eviction import GreedyDual
from quickthaw.scheduler.core.model import (
    AttemptId,
    Digest,
    ModelId,
    ModelSpec,
    RequestId,
    Tier,
    WorkerSpec,
    WorkerState,
)

LOWER_TIERS = (Tier.PINNED, Tier.DISK)
_NOTHING: frozenset[Digest] = frozenset()


class WorkerClass(NamedTuple):
    """Workers that are alike to placement but for what they hold."""

    gpu_type: str
    rate_nanodollars_per_second: int
    vram_bytes: int
    dedicated_to: ModelId | None = None
    """The one endpoint that they serve, while they are reserved for it."""


class Held:
    """An open attempt on a worker: what it keeps in VRAM, what it makes leave, when it may end."""

    __slots__ = (
        "brings",
        "ended_ms",
        "evicts",
        "expected_end_ms",
        "expected_load_seconds",
        "expected_run_ms",
        "load_tier",
        "loaded_ms",
        "model",
        "run",
        "running",
    )

    def __init__(
        self,
        model: ModelSpec,
        evicts: Iterable[Digest],
        expected_end_ms: int,
        *,
        expected_run_ms: int = 0,
        loaded_ms: int = 0,
        expected_load_seconds: float = 0.0,
        load_tier: Tier = Tier.VRAM,
        brings: Iterable[Digest] = (),
    ) -> None:
        self.model = model
        self.run: AttemptId | None = None
        """The first attempt of the batch that it is part of; None if it is to run alone."""
        self.evicts = set(evicts)
        self.expected_end_ms = expected_end_ms
        self.expected_run_ms = expected_run_ms
        self.loaded_ms = loaded_ms
        """When its load should be done; 0 if it needs none."""
        self.expected_load_seconds = expected_load_seconds
        self.load_tier = load_tier
        self.brings = frozenset(brings)
        """What of its model nobody before it brings."""
        self.running = False
        self.ended_ms: int | None = None
        """When the worker first mentioned its end, of which the rest must still come."""


class _LookedAt:
    """What placement reads of each worker that it looks at: side by side in memory, which in a
    large fleet is cold. Slots lie in their names' order, and those of a base class before."""

    __slots__ = (
        "_working_bytes",
        "_working_bytes_least",
        "accepts",
        "available_ms",
        "coming",
        "held",
        "kind",
        "kind_number",
        "planned",
        "planned_bytes",
        "ready",
        "reserved_for",
        "warm_ms",
        "worker_id",
    )


class Worker(_LookedAt):
    """One worker. Read it freely; change it through `Fleet` only."""

    __slots__ = (
        "_evictable",
        "attached_ms",
        "backing_off_until_ms",
        "connected",
        "cordoned",
        "credits",
        "deaths",
        "depth",
        "draining",
        "incoming",
        "last_heard_ms",
        "leaves",
        "loads_until_ms",
        "on_disk",
        "pinned",
        "places",
        "prefetching_until_ms",
        "resident",
        "spec",
        "stop",
        "unloading",
    )

    def __init__(self, spec: WorkerSpec, kind: WorkerClass, depth: int, now_ms: int) -> None:
        self.spec = spec
        self.worker_id = spec.worker_id
        self.kind = kind
        self.kind_number = 0
        """Its class's, as `Fleet` counts them."""
        self.depth = depth
        """Attempts that it may hold at once."""
        self.attached_ms = now_ms
        self.last_heard_ms = now_ms
        self.ready = False
        """Connected and not held back by an operator; kept by `Fleet.refresh`."""
        self.accepts = False
        """It is ready and has a place left; kept by `Fleet.refresh`."""
        self.connected = True
        self.cordoned = False
        self.draining = False
        self.stop = False
        self.reserved_for: RequestId | None = None
        """A request that was passed over too often: nothing else is placed here."""
        self.deaths = 0
        """Processes of this worker that died lately."""
        self.backing_off_until_ms = 0
        """It gets nothing until then, because it died too often; 0 if it did not."""
        self.resident: dict[Tier, dict[Digest, int]] = {tier: {} for tier in Tier}
        """Digest to size, by tier, as the worker reported it."""
        self.pinned = self.resident[Tier.PINNED]
        self.on_disk = self.resident[Tier.DISK]
        self.held: dict[AttemptId, Held] = {}
        self.incoming: dict[Digest, int] = {}
        """On their way to VRAM by a prefetch: digest to size. They count as there."""
        self.unloading: set[Digest] = set()
        """Told to leave VRAM by the slow planner, and not reported gone yet."""
        self.prefetching_until_ms = 0
        """A prefetch of any kind is under way until then, or until it is reported."""
        self.credits = GreedyDual()
        self.places = 0
        """Runs that it holds: attempts, less those that run along with others."""
        self.planned: dict[Digest, int] = {}
        self.planned_bytes = 0
        self.leaves = False
        """Whether anything is told to go."""
        self.available_ms = 0
        """When one attempt more could begin to run; in the past if it could at once."""
        self.warm_ms = 0
        """As `available_ms`, if its model is up: it runs while others load."""
        self.coming = _NOTHING
        """What those bring, and is not up yet."""
        self.loads_until_ms = 0
        """When the next load could begin: they go one by one, beside the runs."""
        self._working_bytes = self._working_bytes_least = 0
        self._evictable: Sequence[tuple[Digest, int]] | None = None

    @property
    def state(self) -> WorkerState:
        if not self.connected:
            return WorkerState.DISCONNECTED
        if self.draining:
            return WorkerState.DRAINING
        if self.backing_off_until_ms:
            return WorkerState.BACKING_OFF
        return WorkerState.CORDONED if self.cordoned else WorkerState.READY

    @property
    def dedicated_to(self) -> ModelId | None:
        """The one endpoint that it serves, while it is reserved for it."""
        return self.kind.dedicated_to

    def working_bytes(self, more: int = 0) -> int:
        """Of the attempts that may run at once, the hungriest, `more` being one more attempt's."""
        beyond = more - self._working_bytes_least
        return self._working_bytes + beyond if beyond > 0 else self._working_bytes

    @property
    def committed_bytes(self) -> int:
        """What it will use at most: never over its VRAM by our decisions, which tests watch."""
        return self.planned_bytes + self.working_bytes()

    def evictable(self) -> Sequence[tuple[Digest, int]]:
        """What may leave VRAM, with sizes, first to go first: all of the plan that no open attempt
        uses. Worked out when it is first asked for after a change."""
        if self._evictable is None:
            needed = self.needed()
            free = [(d, size) for d, size in self.planned.items() if d not in needed]
            self._evictable = self.credits.ordered(free)
        return self._evictable

    def forget_order(self) -> None:
        """The order in which components leave has changed."""
        self._evictable = None

    def needed(self) -> set[Digest]:
        """What open attempts use or will use."""
        return {digest for held in self.held.values() for digest in held.model.sizes}

    def leaving(self) -> set[Digest]:
        """Told to go, and not reported gone yet."""
        told = {digest for held in self.held.values() for digest in held.evicts}
        return told | self.unloading if self.unloading else told

    def tier_below(self, digest: Digest) -> Tier:
        """The nearest tier below VRAM that has the component."""
        for tier in LOWER_TIERS:
            if digest in self.resident[tier]:
                return tier
        return Tier.REMOTE

    def replan(self) -> None:
        """Works out again what follows from `resident` and `held`."""
        leaving = self.leaving()
        self.leaves = bool(leaving)
        planned = {d: size for d, size in self.resident[Tier.VRAM].items() if d not in leaving}
        if self.incoming:
            planned.update({d: size for d, size in self.incoming.items() if d not in leaving})
        # Once for each model, whatever it runs at a time.
        for model in {id(held.model): held.model for held in self.held.values()}.values():
            planned.update(model.sizes)
        self.planned = planned
        self.planned_bytes = sum(planned.values())
        self._evictable = None
        self.replan_runs()

    def replan_for(self, held: Held) -> None:
        """As `replan`, after one attempt more, from what was known before: a worker may hold a
        thousand small ones."""
        if held.evicts or self.incoming or not held.model.sizes.keys() <= self.planned.keys():
            self.replan()
            return
        self._evictable = None
        if self._waits_for_places(len(self.held)):
            self.replan_runs()
            return
        self.places = len(self.held)
        self.loads_until_ms = max(self.loads_until_ms, held.loaded_ms)
        self._working_bytes += held.model.working_bytes

    def replan_without(self, held: Held) -> None:
        """As `replan`, after one attempt less."""
        if self.leaves or not held.model.sizes.keys() <= self.resident[Tier.VRAM].keys():
            self.replan()
            return
        self._evictable = None
        last_load = held.loaded_ms > 0 and held.loaded_ms == self.loads_until_ms
        if last_load or self._waits_for_places(len(self.held) + 1):
            self.replan_runs()
            return
        self.places = len(self.held)
        self._working_bytes -= held.model.working_bytes

    def _waits_for_places(self, attempts: int) -> bool:
        """With so many attempts, one more would wait for the end of another; or it is not that
        simple, because several may be one run."""
        return attempts >= self.spec.concurrency or self.spec.batch_max > 1

    @property
    def crowded(self) -> bool:
        """Some of what it holds may wait for the end of another."""
        return self._waits_for_places(len(self.held))

    def batches(self, model: ModelSpec, batch_key: str) -> bool:
        """It runs such attempts several at once."""
        spec = self.spec
        return bool(batch_key) and spec.batch_max > 1 and model.family in spec.batch_families

    def takes(self, held: Held) -> bool:
        """It has a place for the attempt, or the run has that the attempt is to be part of."""
        if not held.run:
            return self.places < self.depth
        alike = sum(other.run == held.run for other in self.held.values())
        return 0 < alike < self.spec.batch_max

    def working_bytes_with(self, held: Held) -> int:
        """As `working_bytes`, with one attempt more, wherever it runs."""
        if not held.run:
            return self.working_bytes(held.model.working_bytes)
        runs = self._runs((*self.held.values(), held))
        workings = sorted((_working_bytes(run) for run in runs), reverse=True)
        return sum(workings[: self.spec.concurrency])

    def _runs(self, attempts: Iterable[Held]) -> list[list[Held]]:
        """What is to run as one: each attempt alone, or those that were placed as one."""
        alone: list[list[Held]] = []
        together: dict[AttemptId, list[Held]] = {}
        for held in attempts:
            if held.run:
                together.setdefault(held.run, []).append(held)
            else:
                alone.append([held])
        return alone + list(together.values())

    def replan_runs(self) -> None:
        """When the next load and the next run could begin, and what those that run at once need."""
        self.loads_until_ms = max([held.loaded_ms for held in self.held.values()], default=0)
        if self.spec.batch_max > 1:
            self._replan_batches()
            return
        self.places, concurrency = len(self.held), self.spec.concurrency
        self.available_ms = self._working_bytes_least = 0
        if len(self.held) >= concurrency:
            ends = sorted([held.expected_end_ms for held in self.held.values()], reverse=True)
            self.available_ms = ends[concurrency - 1]
        self._replan_warm()
        workings = [held.model.working_bytes for held in self.held.values()]
        if len(workings) >= concurrency:
            workings = sorted(workings, reverse=True)[:concurrency]
            # One attempt more takes the place of this one, for all places are taken.
            self._working_bytes_least = workings[-1]
        self._working_bytes = sum(workings)

    def _replan_warm(self) -> None:
        self.warm_ms, self.coming = self.available_ms, _NOTHING
        loading = [each for each in self.held.values() if each.loaded_ms and not each.running]
        if loading and self.available_ms:
            self.warm_ms = min(self.available_ms, self.begins_ms(None))
            self.coming = _NOTHING.union(*[each.brings for each in loading])

    def overtaken_by(self, model: ModelSpec) -> bool:
        """A request for it would run while others load: it is up, and they are not."""
        return self.warm_ms < self.available_ms and self.coming.isdisjoint(model.sizes)

    def begins_ms(self, wanted: Held | None) -> int:
        """When an attempt begins to run that waits here, or one more whose model is up: whenever
        one could run, the first of those that are loaded does."""
        rest = [held for held in self.held.values() if not held.running]
        free = sorted([held.expected_end_ms for held in self.held.values() if held.running])
        free = [0] * (self.spec.concurrency - len(free)) + free
        while True:
            at_ms = free[0]
            first = next((held for held in rest if held.loaded_ms <= at_ms), None)
            if first is None:
                if wanted is None:
                    return at_ms
                first = min(rest, key=lambda held: held.loaded_ms)
                at_ms = first.loaded_ms
            if first is wanted:
                return at_ms
            rest.remove(first)
            free[0] = at_ms + first.expected_run_ms
            free.sort()

    def put_off(self, held: Held) -> None:
        """What an attempt overtakes that is up begins at its end, if that is after the load's."""
        if held.loaded_ms or held.running or self.spec.concurrency > 1:
            return
        free_ms, began_ms = held.expected_end_ms, held.expected_end_ms - held.expected_run_ms
        for other in self.held.values():
            if other.loaded_ms > began_ms and not other.running:
                free_ms = max(other.expected_end_ms, free_ms + other.expected_run_ms)
                other.expected_end_ms = free_ms

    def _replan_batches(self) -> None:
        """As `replan_runs`, where several attempts may be one run."""
        runs, concurrency = self._runs(self.held.values()), self.spec.concurrency
        self.places = len(runs)
        ends = sorted((max(held.expected_end_ms for held in run) for run in runs), reverse=True)
        self.available_ms = ends[concurrency - 1] if len(ends) >= concurrency else 0
        self.warm_ms = self.available_ms
        workings = sorted((_working_bytes(run) for run in runs), reverse=True)[:concurrency]
        self._working_bytes_least = workings[-1] if len(workings) == concurrency else 0
        self._working_bytes = sum(workings)


def _working_bytes(run: Iterable[Held]) -> int:
    """Of a batch: every member's pictures are in memory at once."""
    return sum(held.model.working_bytes for held in run)
