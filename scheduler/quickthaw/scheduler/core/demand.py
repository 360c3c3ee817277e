"""What is asked of each model: how much work of late, how often, and how long its pauses are.

Kept by the fast core at a few operations for each request; read by the slow planner (`supply`).
"""

from __future__ import annotations

import math
from collections import OrderedDict

from quickthaw.scheduler.core.idle_times import IdleTimes
from quickthaw.scheduler.core.model import Digest, Job, ModelId, ModelSpec

LOAD_TAU_MS = 60_000
USES_TAU_MS = 600_000
RUN_WEIGHT = 0.1


class Decayed:
    """A sum whose parts fade with the time constant `tau_ms`."""

    __slots__ = ("_at_ms", "_tau_ms", "_value")

    def __init__(self, tau_ms: int) -> None:
        self._tau_ms = tau_ms
        self._value = 0.0
        self._at_ms = 0

    def add(self, amount: float, now_ms: int) -> None:
        # Under load many come in one millisecond, in which nothing fades.
        if now_ms != self._at_ms:
            self._value = self.at(now_ms)
            self._at_ms = now_ms
        self._value += amount

    def at(self, now_ms: int) -> float:
        if not self._value:
            return 0.0
        return self._value * math.exp(-(now_ms - self._at_ms) / self._tau_ms)


class Demand:
    """One model's. `model` is the version that was asked for last."""

    __slots__ = ("idle_since_ms", "model", "open", "pauses", "uses", "work")

    def __init__(self, model: ModelSpec) -> None:
        self.model = model
        self.open = 0
        """Requests that have not ended."""
        self.idle_since_ms: int | None = None
        """When the last one ended, while none is open."""
        self.pauses = IdleTimes()
        self.work = Decayed(LOAD_TAU_MS)
        self.uses = Decayed(USES_TAU_MS)

    def load(self, now_ms: int) -> float:
        """GPU-seconds asked for in each second of late: copies that would be busy all the time."""
        return self.work.at(now_ms) / (LOAD_TAU_MS / 1000)


class Demands:
    """Of the models asked for last, up to a bound."""

    def __init__(self, models_max: int) -> None:
        self._models_max = models_max
        self._known: OrderedDict[ModelId, Demand] = OrderedDict()
        self._wanting: dict[Digest, set[ModelId]] = {}
        self._work = Decayed(LOAD_TAU_MS)
        self._run_seconds = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def of(self, model: ModelId) -> Demand | None:
        return self._known.get(model)

    def models(self) -> list[Demand]:
        """Asked for the longest time ago first."""
        return list(self._known.values())

    def wanting(self, digest: Digest) -> set[ModelId]:
        """The known models that have this component."""
        return self._wanting.get(digest, set())

    def load(self, now_ms: int) -> float:
        """Of all models together: workers that would be busy all the time."""
        return self._work.at(now_ms) / (LOAD_TAU_MS / 1000)

    @property
    def run_seconds(self) -> float:
        """What one request takes, on average of late."""
        return self._run_seconds

    def arrived(self, job: Job, run_seconds: float, now_ms: int) -> None:
        """A request is in the queue for the first time."""
        demand = self._known.pop(job.model.id, None)
        if demand is None:
            demand = Demand(job.model)
            self._index(job.model)
        elif demand.model is not job.model:
            self._drop(demand.model)
            self._index(job.model)
            demand.model = job.model
        self._known[job.model.id] = demand
        if demand.idle_since_ms is not None:
            demand.pauses.note(now_ms - demand.idle_since_ms)
            demand.idle_since_ms = None
        demand.open += 1
        demand.work.add(run_seconds, now_ms)
        demand.uses.add(1.0, now_ms)
        self._work.add(run_seconds, now_ms)
        first = self._run_seconds == 0.0
        self._run_seconds += (run_seconds - self._run_seconds) * (1.0 if first else RUN_WEIGHT)
        if len(self._known) > self._models_max:
            _, oldest = self._known.popitem(last=False)
            self._drop(oldest.model)

    def ended(self, job: Job, now_ms: int) -> None:
        """A request has ended, however."""
        demand = self._known.get(job.model.id)
        if demand is None or not demand.open:
            return
        demand.open -= 1
        if not demand.open:
            demand.idle_since_ms = now_ms

    def _index(self, model: ModelSpec) -> None:
        for digest in model.sizes:
            self._wanting.setdefault(digest, set()).add(model.id)

    def _drop(self, model: ModelSpec) -> None:
        for digest in model.sizes:
            wanting = self._wanting[digest]
            wanting.discard(model.id)
            if not wanting:
                del self._wanting[digest]
