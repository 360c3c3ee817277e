"""The workers of a simulation: they load, run and drop what they are told, on virtual time.

One worker loads one model while it runs another, and begins a load only while fewer than
`READY_MAX` models wait loaded, as a real one does (`--ready-max`). While it loads and nothing could
run, a later attempt whose model is up does (`--overtakes-max`). True times come from the
worker's `GpuKind` with log-normal noise; policies see only what happened. Every worker checks what
it is told: over-committed memory or a model run without its weights ends the simulation.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from itertools import islice
from random import Random
from typing import NamedTuple

from quickthaw.scheduler.core.model import Digest, ModelSpec, Residency, Tier
from quickthaw.scheduler.simulate.kinds import GpuKind

READY_MAX = 2
OVERTAKES_MAX = 16
"""Runs that may begin beside one load, and attempts that are looked at for each."""


class Attempt:
    """One request on one worker. Times are seconds; `tier` is the farthest that it loaded from."""

    __slots__ = (
        "began",
        "evict",
        "key",
        "load_seconds",
        "model",
        "run_seconds",
        "stopped",
        "tier",
    )

    def __init__(
        self, key: str, model: ModelSpec, run_seconds: float, evict: Iterable[Digest] = ()
    ) -> None:
        self.key = key
        self.model = model
        self.run_seconds = run_seconds
        self.evict = tuple(evict)
        self.load_seconds = 0.0
        self.tier = Tier.VRAM
        self.began = 0.0
        """When its run began."""
        self.stopped = False
        """It was told to stop: what it had begun never ends by itself."""


class Step(NamedTuple):
    """Something that a worker began, and when it will be over."""

    what: str  # "loaded" or "ran"
    attempt: Attempt
    seconds: float


class Change(NamedTuple):
    added: list[Residency]
    removed: list[Residency]


class VirtualWorker:
    """`disk_slow` divides the disk's speed; used for faults. Disks are never full here."""

    def __init__(
        self,
        name: str,
        kind: GpuKind,
        random: Random,
        stocked: Collection[Digest] = (),
        noise: float = 0.1,
        overtakes_max: int = OVERTAKES_MAX,
    ) -> None:
        self.name = name
        self.kind = kind
        self.disk_slow = 1.0
        self.generation = 0
        """Grows when the worker dies, so that what it had begun never ends."""
        self.alive = True
        self.vram: OrderedDict[Digest, int] = OrderedDict()  # least recently used first
        self.pinned: OrderedDict[Digest, int] = OrderedDict()
        self.disk: set[Digest] = set(stocked)
        self.waiting: deque[Attempt] = deque()
        self.loading: Attempt | None = None
        self.ready: deque[Attempt] = deque()
        self.running: Attempt | None = None
        self._overtakes_max = overtakes_max
        self._overtaken = 0
        self._coming: set[Digest] = set()
        """Of what VRAM has a place for, what is still on its way."""
        self.evictions = 0
        self.vram_bytes = self.pinned_bytes = 0
        self._random = random
        self._noise = noise

    def die(self) -> list[Attempt]:
        """Everything but the disk is gone; returns what it had not finished."""
        lost = [*self.waiting, *self.ready]
        lost += [each for each in (self.loading, self.running) if each is not None]
        self.generation += 1
        self.alive = False
        self.vram.clear()
        self.pinned.clear()
        self.waiting.clear()
        self.ready.clear()
        self.vram_bytes = self.pinned_bytes = 0
        self.loading = self.running = None
        self._coming.clear()
        return lost

    def backlog(self) -> int:
        busy = (self.loading is not None) + (self.running is not None)
        return len(self.waiting) + len(self.ready) + busy

    # ---- time goes on ------------------------------------------------------------------------

    def begin(self) -> tuple[list[Step], Change]:
        """Starts whatever can start now: the next run, and one load beside it; or a load, and a
        run of what is up beside that."""
        steps: list[Step] = []
        change = Change([], [])
        if self.running is None and self.ready:
            steps.append(self._run(self.ready.popleft()))
        may_load = self.loading is None and self.waiting and len(self.ready) < READY_MAX
        if may_load and self._room_for(self.waiting[0], change):
            attempt = self.loading = self.waiting.popleft()
            attempt.load_seconds, attempt.tier = self._bring(attempt.model, change)
            steps.append(Step("loaded", attempt, attempt.load_seconds))
        if (overtaking := self._overtaking()) is not None:
            self._overtaken += 1
            self.waiting.remove(overtaking)
            steps.append(self._run(overtaking))
        return steps, change

    def _run(self, attempt: Attempt) -> Step:
        self.running = attempt
        missing = (attempt.model.sizes.keys() - self.vram.keys()) | (
            self._coming & attempt.model.sizes.keys()
        )
        assert not missing, f"{self.name} was to run {attempt.key} without {missing}"
        for digest in attempt.model.sizes:
            self.vram.move_to_end(digest)
        return Step("ran", attempt, attempt.run_seconds / self.kind.speed * self._jitter())

    def _overtaking(self) -> Attempt | None:
        """Who can run beside the load that goes on: the first whose model is up."""
        loading = self.loading
        if self.running is not None or loading is None or self._overtaken >= self._overtakes_max:
            return None
        up = self.vram.keys() - self._coming
        for attempt in islice(self.waiting, OVERTAKES_MAX):
            working = max(attempt.model.working_bytes, loading.model.working_bytes)
            if attempt.model.sizes.keys() <= up and self._fits(working):
                return attempt
        return None

    def loaded(self, attempt: Attempt) -> None:
        assert self.loading is attempt
        self.loading = None
        self._coming.clear()
        self.ready.append(attempt)

    def ran(self, attempt: Attempt) -> None:
        assert self.running is attempt
        self.running = None

    def stop(self, key: str) -> Attempt | None:
        """Takes an attempt off the worker, whatever it is at; what it brought stays. None if it
        is not here any more."""
        for line in (self.waiting, self.ready):
            for attempt in line:
                if attempt.key == key:
                    line.remove(attempt)
                    return attempt
        if self.loading is not None and self.loading.key == key:
            stopped, self.loading = self.loading, None
            self._coming.clear()
        elif self.running is not None and self.running.key == key:
            stopped, self.running = self.running, None
        else:
            return None
        stopped.stopped = True
        return stopped

    # ---- memory ------------------------------------------------------------------------------

    def in_use(self) -> set[Digest]:
        used = [each for each in (self.loading, self.running) if each is not None]
        return {digest for each in (*used, *self.ready) for digest in each.model.sizes}

    def _room_for(self, attempt: Attempt, change: Change) -> bool:
        """Makes room: what the attempt was told to evict, then the least recently used. False if
        it must wait for a run to end."""
        in_use = self.in_use()
        wanted = attempt.model.sizes
        for digest in attempt.evict:
            if digest in self.vram and digest not in in_use and digest not in wanted:
                self._drop(digest, change)
        missing = sum(size for digest, size in wanted.items() if digest not in self.vram)
        working = attempt.model.working_bytes
        if self.running is not None:
            working = max(working, self.running.model.working_bytes)
        for digest in [] if self._fits(missing + working) else list(self.vram):
            if digest not in in_use and digest not in wanted:
                self._drop(digest, change)
                if self._fits(missing + working):
                    break
        return self._fits(missing + working)

    def _fits(self, more_bytes: int) -> bool:
        return self.vram_bytes + more_bytes <= self.kind.vram_bytes

    def _drop(self, digest: Digest, change: Change) -> None:
        size_bytes = self.vram.pop(digest)
        self.vram_bytes -= size_bytes
        self.evictions += 1
        change.removed.append(Residency(digest, Tier.VRAM, size_bytes))

    def _bring(self, model: ModelSpec, change: Change) -> tuple[float, Tier]:
        """Loads what is missing: seconds, and the farthest tier."""
        seconds, farthest = 0.0, Tier.VRAM
        self._overtaken = 0
        for digest, size_bytes in model.sizes.items():
            if digest in self.vram:
                continue
            tier = self.tier_of(digest)
            speed = self.kind.tiers[tier]
            slow = self.disk_slow if tier is Tier.DISK else 1.0
            seconds += speed.latency_seconds + size_bytes / speed.bytes_per_second * slow
            farthest = max(farthest, tier)
            self.vram[digest] = size_bytes
            self._coming.add(digest)
            self.vram_bytes += size_bytes
            change.added.append(Residency(digest, Tier.VRAM, size_bytes))
            self._pin(digest, size_bytes, change)
            if tier is Tier.REMOTE:
                self.disk.add(digest)
                change.added.append(Residency(digest, Tier.DISK, size_bytes))
        assert self.vram_bytes <= self.kind.vram_bytes, f"{self.name} is over-committed"
        return seconds * self._jitter() if seconds else 0.0, farthest

    def tier_of(self, digest: Digest) -> Tier:
        if digest in self.vram:
            return Tier.VRAM
        if digest in self.pinned:
            return Tier.PINNED
        return Tier.DISK if digest in self.disk else Tier.REMOTE

    def _pin(self, digest: Digest, size_bytes: int, change: Change) -> None:
        if digest in self.pinned:
            self.pinned.move_to_end(digest)
            return
        if size_bytes > self.kind.pinned_bytes:
            return
        while self.pinned_bytes + size_bytes > self.kind.pinned_bytes:
            gone, gone_bytes = self.pinned.popitem(last=False)
            self.pinned_bytes -= gone_bytes
            change.removed.append(Residency(gone, Tier.PINNED, gone_bytes))
        self.pinned[digest] = size_bytes
        self.pinned_bytes += size_bytes
        change.added.append(Residency(digest, Tier.PINNED, size_bytes))

    def _jitter(self) -> float:
        return self._random.lognormvariate(0.0, self._noise)
