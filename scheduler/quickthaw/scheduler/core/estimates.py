"""How long loads and runs take: what workers measured of themselves, corrected by what happened.

Placement asks through the `Estimates` protocol. `LearnedEstimates` starts from each worker's own
tier speeds (or cautious defaults) and learns, for every (worker, tier), the ratio of actual to
predicted load time, and for every (model, GPU type) the seconds a unit of work takes, as quantiles
(`quantiles`). A model that has not run on a GPU type yet is expected to run there as on those where
it has, by the pace that other models ran at on either (`paces`); one that never ran, as a cautious
default says.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from quickthaw.scheduler.core.model import (
    Estimate,
    ModelId,
    Tier,
    TierSpeed,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.paces import GpuPaces
from quickthaw.scheduler.core.quantiles import Calibration, LogQuantiles

DEFAULT_SPEEDS: Mapping[Tier, TierSpeed] = {
    Tier.VRAM: TierSpeed(1e15, 0.0),
    Tier.PINNED: TierSpeed(12e9, 0.01),
    Tier.DISK: TierSpeed(1.5e9, 0.05),
    Tier.REMOTE: TierSpeed(200e6, 0.5),
}
"""Until a worker says better: PCIe 3, a SATA-to-NVMe disk and a gigabit-or-two network."""

DEFAULT_RUN_SECONDS_PER_UNIT = 0.1
"""Until a model has run on a GPU type."""

SECONDS_LEAST = 0.0005
"""What was measured as less counts as this, half of what meters tell apart."""

_NOTHING = Estimate(0.0, 0.0)

_LOAD_TIERS = (Tier.PINNED, Tier.DISK, Tier.REMOTE)


class LoadLine(NamedTuple):
    """The median load time of `n` bytes: `latency_seconds + n x seconds_per_byte`."""

    latency_seconds: float
    seconds_per_byte: float


LoadLines: TypeAlias = tuple[LoadLine, LoadLine, LoadLine]
"""From pinned memory, from disk and from afar."""


class Estimates(Protocol):
    def load_lines(self, worker_id: WorkerId) -> LoadLines:
        """For placement, which asks for many sizes: the p50s of `load_seconds` as lines."""
        ...

    def fastest_line(self, tier: Tier) -> LoadLine:
        """No load from this tier or a farther one, on any worker, takes less than that."""
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

    def calibration(self) -> Mapping[str, Calibration]:
        """Of `load` and `run`: how often the truth fell under what was foretold."""
        ...


_Key = TypeVar("_Key", bound=Hashable)


class _Bounded(Generic[_Key]):
    """The quantiles of the most recently observed keys."""

    def __init__(self, prior: float, entries_max: int) -> None:
        self._unknown = LogQuantiles(prior)
        self._prior = prior
        self._entries_max = entries_max
        self._entries: OrderedDict[_Key, LogQuantiles] = OrderedDict()

    def get(self, key: _Key) -> LogQuantiles:
        return self._entries.get(key, self._unknown)

    def find(self, key: _Key) -> LogQuantiles | None:
        return self._entries.get(key)

    def add(self, key: _Key, value: float) -> None:
        entry = self._entries.pop(key, None) or LogQuantiles(self._prior)
        entry.add(value)
        self._entries[key] = entry
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)


class LearnedEstimates:
    """The `Estimates` of the running system; deterministic, bounded by `entries_max`."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._speeds: OrderedDict[WorkerId, Mapping[Tier, TierSpeed]] = OrderedDict()
        self._lines: dict[WorkerId, LoadLines] = {}  # made when asked for
        slowest = LoadLine(math.inf, math.inf)
        self._fastest: dict[Tier, LoadLine] = dict.fromkeys(_LOAD_TIERS, slowest)
        for tier in _LOAD_TIERS:
            self._note_fastest(tier, _line(DEFAULT_SPEEDS[tier], 1.0))
        self._load_ratio: _Bounded[tuple[WorkerId, Tier]] = _Bounded(1.0, entries_max)
        self._unit_seconds: _Bounded[tuple[ModelId, str]] = _Bounded(
            DEFAULT_RUN_SECONDS_PER_UNIT, entries_max
        )
        # On a type of pace 1: what is expected of a type on which the model has not run yet.
        self._model_seconds: _Bounded[ModelId] = _Bounded(DEFAULT_RUN_SECONDS_PER_UNIT, entries_max)
        self._paces = GpuPaces(entries_max)
        self._ran_last: OrderedDict[ModelId, str] = OrderedDict()
        self._calibration = {"load": Calibration(), "run": Calibration()}

    def worker_attached(self, spec: WorkerSpec) -> None:
        self._speeds.pop(spec.worker_id, None)
        self._speeds[spec.worker_id] = {**DEFAULT_SPEEDS, **spec.tier_speeds}
        if len(self._speeds) > self._entries_max:
            self._speeds.popitem(last=False)
        self._lines.pop(spec.worker_id, None)
        for tier, line in zip(_LOAD_TIERS, self.load_lines(spec.worker_id), strict=True):
            self._note_fastest(tier, line)
            self._note_fastest(tier, _line(self._speeds[spec.worker_id][tier], 1.0))

    def load_lines(self, worker_id: WorkerId) -> LoadLines:
        if (lines := self._lines.get(worker_id)) is None:
            lines = (
                self._line(worker_id, Tier.PINNED),
                self._line(worker_id, Tier.DISK),
                self._line(worker_id, Tier.REMOTE),
            )
            if len(self._lines) >= self._entries_max:
                self._lines.clear()
            self._lines[worker_id] = lines
        return lines

    def fastest_line(self, tier: Tier) -> LoadLine:
        return self._fastest[tier]

    def _line(self, worker_id: WorkerId, tier: Tier) -> LoadLine:
        speed = self._speeds.get(worker_id, DEFAULT_SPEEDS)[tier]
        return _line(speed, self._load_ratio.get((worker_id, tier)).p50)

    def _note_fastest(self, tier: Tier, line: LoadLine) -> None:
        """A bound over all that ever were: one that has become slower is not forgotten, as that
        would take a look at all."""
        for nearer in _LOAD_TIERS:
            if nearer <= tier:
                latency_seconds, seconds_per_byte = self._fastest[nearer]
                self._fastest[nearer] = LoadLine(
                    min(latency_seconds, line.latency_seconds),
                    min(seconds_per_byte, line.seconds_per_byte),
                )

    def load_seconds(self, worker_id: WorkerId, tier: Tier, size_bytes: int) -> Estimate:
        if size_bytes == 0:
            return _NOTHING
        speed = self._speeds.get(worker_id, DEFAULT_SPEEDS)[tier]
        seconds = speed.latency_seconds + size_bytes / speed.bytes_per_second
        return self._load_ratio.get((worker_id, tier)).scaled(seconds)

    def run_seconds(self, model: ModelId, gpu_type: str, work_units: float) -> Estimate:
        if (known := self._unit_seconds.find((model, gpu_type))) is not None:
            return known.scaled(work_units)
        guessed = self._model_seconds.get(model)
        factor = work_units * self._paces.pace(gpu_type)
        return Estimate(guessed.p50 * factor, guessed.p95 * factor)

    def loaded(self, worker_id: WorkerId, tier: Tier, expected: float, actual: float) -> None:
        if expected <= 0.0:
            return
        actual = max(actual, SECONDS_LEAST)
        known = self._load_ratio.get((worker_id, tier))
        # The expectation had the ratio in it already: by now the ratio may be another, which
        # matters little; learn the ratio to the raw prediction.
        raw_seconds = expected / known.p50
        self._calibration["load"].note(known.scaled(raw_seconds), actual)
        self._load_ratio.add((worker_id, tier), actual / raw_seconds)
        self._lines.pop(worker_id, None)
        if tier in self._fastest:
            self._note_fastest(tier, self._line(worker_id, tier))

    def ran(self, model: ModelId, gpu_type: str, work_units: float, seconds: float) -> None:
        known = self._unit_seconds.find((model, gpu_type))
        if known is not None:
            self._calibration["run"].note(known.scaled(work_units), max(seconds, SECONDS_LEAST))
        self.recall(model, gpu_type, work_units, seconds)

    def recall(self, model: ModelId, gpu_type: str, work_units: float, seconds: float) -> None:
        """As `ran`, of a run that was long ago: nobody had foretold it."""
        if work_units <= 0.0:
            return
        unit_seconds = max(seconds, SECONDS_LEAST) / work_units
        self._unit_seconds.add((model, gpu_type), unit_seconds)
        self._note_pace(model, gpu_type, unit_seconds)
        self._model_seconds.add(model, unit_seconds / self._paces.pace(gpu_type))

    def _note_pace(self, model: ModelId, gpu_type: str, unit_seconds: float) -> None:
        before = self._ran_last.pop(model, None)
        if before is not None and before != gpu_type:
            self._compare(model, gpu_type, before, unit_seconds)
        self._ran_last[model] = gpu_type
        if len(self._ran_last) > self._entries_max:
            self._ran_last.popitem(last=False)

    def _compare(self, model: ModelId, gpu_type: str, before: str, unit_seconds: float) -> None:
        if (expected := self._model_seconds.find(model)) is not None:
            ratio = unit_seconds / (expected.p50 * self._paces.pace(gpu_type))
            self._paces.compared(gpu_type, before, ratio)

    def calibration(self) -> Mapping[str, Calibration]:
        return self._calibration


def _line(speed: TierSpeed, ratio: float) -> LoadLine:
    return LoadLine(ratio * speed.latency_seconds, ratio / speed.bytes_per_second)
