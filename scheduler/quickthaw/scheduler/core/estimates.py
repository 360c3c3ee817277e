"""How long loads and runs take: what workers measured of themselves, corrected by what happened.

Placement asks through the `Estimates` protocol. `LearnedEstimates` starts from each worker's own
tier speeds (or cautious defaults) and keeps, for every (worker, tier) the ratio of actual to
predicted load time, and for every (model, GPU type) the seconds a unit of work takes: an
exponentially weighted mean and deviation each, p95 being the mean plus 1.645 deviations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from quickthaw.scheduler.core.model import (
    Estimate,
    ModelId,
    Tier,
    TierSpeed,
    WorkerId,
    WorkerSpec,
)

_P95_DEVIATIONS = 1.645
_WEIGHT = 0.2
"""Of the newest observation: half of what is known is from the last three."""

DEFAULT_SPEEDS: Mapping[Tier, TierSpeed] = {
    Tier.VRAM: TierSpeed(1e15, 0.0),
    Tier.PINNED: TierSpeed(12e9, 0.01),
    Tier.DISK: TierSpeed(1.5e9, 0.05),
    Tier.REMOTE: TierSpeed(200e6, 0.5),
}
"""Until a worker says better: PCIe 3, a SATA-to-NVMe disk and a gigabit-or-two network."""

DEFAULT_RUN_SECONDS_PER_UNIT = 0.1
"""Until a model has run on a GPU type."""

_NOTHING = Estimate(0.0, 0.0)


class LoadLine(NamedTuple):
    """The median load time of `n` bytes: `latency_seconds + n x seconds_per_byte`."""

    latency_seconds: float
    seconds_per_byte: float


class Estimates(Protocol):
    def load_line(self, worker_id: WorkerId, tier: Tier) -> LoadLine:
        """For placement, which asks for many sizes: the p50 of `load_seconds` as a line."""
        ...

    def load_seconds(self, worker_id: WorkerId, tier: Tier, size_bytes: int) -> Estimate:
        """To bring so many bytes of this tier of this worker to its VRAM."""
        ...

    def run_seconds(self, model: ModelId, gpu_type: str, work_units: float) -> Estimate:
        """Of one run, the model being in VRAM."""
        ...

    def worker_attached(self, spec: WorkerSpec) -> None:
        """The worker's own measurements have become known."""
        ...

    def loaded(self, worker_id: WorkerId, tier: Tier, expected: float, actual: float) -> None:
        """A load whose farthest component was in `tier` took `actual` seconds; `expected` is what
        these estimates had said."""
        ...

    def ran(self, model: ModelId, gpu_type: str, work_units: float, seconds: float) -> None:
        """A run that succeeded was metered."""
        ...


class Moving:
    """An exponentially weighted mean and mean absolute deviation."""

    __slots__ = ("deviation", "mean", "samples")

    def __init__(self, prior: float) -> None:
        self.mean = prior
        self.deviation = prior / 2
        self.samples = 0

    def add(self, value: float) -> None:
        if self.samples == 0:
            self.mean, self.deviation = value, value / 4
        else:
            error = value - self.mean
            self.mean += _WEIGHT * error
            # A normal variable's deviation is 1.25 times its mean absolute error.
            self.deviation += _WEIGHT * (1.25 * abs(error) - self.deviation)
        self.samples += 1

    def scaled(self, factor: float) -> Estimate:
        p95 = self.mean + _P95_DEVIATIONS * self.deviation
        return Estimate(self.mean * factor, p95 * factor, self.samples)


_Key = TypeVar("_Key", bound=Hashable)


class _Bounded(Generic[_Key]):
    """The means of the most recently observed keys."""

    def __init__(self, prior: float, entries_max: int) -> None:
        self._prior = Moving(prior)
        self._prior_mean = prior
        self._entries_max = entries_max
        self._entries: OrderedDict[_Key, Moving] = OrderedDict()

    def get(self, key: _Key) -> Moving:
        return self._entries.get(key, self._prior)

    def add(self, key: _Key, value: float) -> None:
        entry = self._entries.pop(key, None) or Moving(self._prior_mean)
        entry.add(value)
        self._entries[key] = entry
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)


class LearnedEstimates:
    """The `Estimates` of the running system; deterministic, bounded by `entries_max`."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._speeds: OrderedDict[WorkerId, Mapping[Tier, TierSpeed]] = OrderedDict()
        self._lines: dict[tuple[WorkerId, Tier], LoadLine] = {}  # made when asked for
        self._load_ratio: _Bounded[tuple[WorkerId, Tier]] = _Bounded(1.0, entries_max)
        self._unit_seconds: _Bounded[tuple[ModelId, str]] = _Bounded(
            DEFAULT_RUN_SECONDS_PER_UNIT, entries_max
        )

    def worker_attached(self, spec: WorkerSpec) -> None:
        self._speeds.pop(spec.worker_id, None)
        self._speeds[spec.worker_id] = {**DEFAULT_SPEEDS, **spec.tier_speeds}
        if len(self._speeds) > self._entries_max:
            self._speeds.popitem(last=False)
        self._lines.clear()

    def load_line(self, worker_id: WorkerId, tier: Tier) -> LoadLine:
        if (line := self._lines.get((worker_id, tier))) is None:
            speed = self._speeds.get(worker_id, DEFAULT_SPEEDS)[tier]
            ratio = self._load_ratio.get((worker_id, tier)).mean
            line = LoadLine(ratio * speed.latency_seconds, ratio / speed.bytes_per_second)
            if len(self._lines) >= self._entries_max:
                self._lines.clear()
            self._lines[worker_id, tier] = line
        return line

    def load_seconds(self, worker_id: WorkerId, tier: Tier, size_bytes: int) -> Estimate:
        if size_bytes == 0:
            return _NOTHING
        speed = self._speeds.get(worker_id, DEFAULT_SPEEDS)[tier]
        seconds = speed.latency_seconds + size_bytes / speed.bytes_per_second
        return self._load_ratio.get((worker_id, tier)).scaled(seconds)

    def run_seconds(self, model: ModelId, gpu_type: str, work_units: float) -> Estimate:
        return self._unit_seconds.get((model, gpu_type)).scaled(work_units)

    def loaded(self, worker_id: WorkerId, tier: Tier, expected: float, actual: float) -> None:
        if expected > 0.0:
            # The expectation had the ratio in it already; learn the ratio to the raw prediction.
            known = self._load_ratio.get((worker_id, tier)).mean
            self._load_ratio.add((worker_id, tier), known * actual / expected)
            self._lines.pop((worker_id, tier), None)

    def ran(self, model: ModelId, gpu_type: str, work_units: float, seconds: float) -> None:
        if work_units > 0.0:
            self._unit_seconds.add((model, gpu_type), seconds / work_units)
