"""What a simulation plays in: traffic, models, a fleet, and what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from quickthaw.scheduler.core.model import Digest, ModelId, ModelSpec
from quickthaw.scheduler.simulate.kinds import GIB, GpuKind
from quickthaw.scheduler.simulate.requestlog import RequestLog
from quickthaw.scheduler.simulate.run import Fault
from quickthaw.scheduler.simulate.traces import TRACES, Arrival, Traffic, catalog
from quickthaw.scheduler.simulate.world import VirtualWorker
from quickthaw.wire.errors import SettingsInvalid

REPLAY = "replay"
"""The trace that is a request log."""
MEAN_UNITS_SHARE = 0.9 * 1.2
"""Of `mean_units x unit_seconds`: the mean of the traces' spreads of work and of models' paces."""
DEATH_SECONDS, SLOW_DISK_SECONDS, SLOW_DISK_FACTOR = 60.0, 300.0, 10.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a policy meets; equal for all of them."""

    models: Sequence[ModelSpec]
    arrivals: Sequence[Arrival]
    kinds: Sequence[GpuKind]
    """The fleet: one worker each."""
    stocked_bytes: int
    """Every disk holds the first models up to this size at the start."""
    seed: int
    deaths: int = 0
    slow_disks: int = 0

    def workers(self) -> list[VirtualWorker]:
        seeds = Random(self.seed)
        stocked = stock(self.models, self.stocked_bytes)
        return [
            VirtualWorker(f"w{number:05}", kind, Random(seeds.random()), stocked)
            for number, kind in enumerate(self.kinds)
        ]

    def faults(self) -> list[Fault]:
        """Deaths of a minute and slow disks of five, at random moments well inside the trace."""
        chance, span = Random(self.seed + 1), self.arrivals[-1].at_seconds
        count = min(self.deaths + self.slow_disks, len(self.kinds))
        found = []
        for number, worker in enumerate(chance.sample(range(len(self.kinds)), count)):
            at_seconds = span * chance.uniform(0.1, 0.8)
            if number < self.deaths:
                found.append(Fault(at_seconds, worker, DEATH_SECONDS))
            else:
                found.append(Fault(at_seconds, worker, SLOW_DISK_SECONDS, SLOW_DISK_FACTOR))
        return found


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """How to make a `Scene`: small, so that it can be handed to another process.

    `rate` is in requests a second; 0 asks for `load`, the run time asked for as a share of the
    fleet's. A log has a rate of its own, which `traffic` multiplies, as it does the others.
    """

    trace: str
    kinds: tuple[GpuKind, ...]
    """Workers are of these in turn."""
    workers: int
    seed: int = 1
    requests: int = 20_000
    models: int = 1_000
    tenants: int = 20
    load: float = 0.4
    rate: float = 0.0
    traffic: float = 1.0
    disk_gib: float = 1_000.0
    deaths: int = 0
    slow_disks: int = 0
    log: RequestLog | None = None

    def fleet(self) -> tuple[GpuKind, ...]:
        return tuple(self.kinds[number % len(self.kinds)] for number in range(self.workers))

    def drawn(self, times: int) -> list[SceneSpec]:
        """The same with other chances: as many seeds, from `seed` on."""
        return [replace(self, seed=self.seed + number) for number in range(times)]

    def with_fleet(self, kind: GpuKind, workers: int) -> SceneSpec:
        """The same traffic on other workers."""
        return replace(self, rate=self._rate(), traffic=1.0, kinds=(kind,), workers=workers)

    def scene(self) -> Scene:
        """Equal specs make equal scenes. Raises SettingsInvalid."""
        models, arrivals = _traffic(self._traffic_only())
        disk_bytes = min(int(self.disk_gib * GIB), sum(model.weight_bytes for model in models))
        return Scene(
            models, arrivals, self.fleet(), disk_bytes, self.seed, self.deaths, self.slow_disks
        )

    def _traffic_only(self) -> SceneSpec:
        """Without what changes no request, so that a fleet of another size meets the same ones."""
        return replace(
            self,
            rate=self._rate(),
            traffic=1.0,
            load=0.0,
            kinds=(),
            workers=0,
            disk_gib=0.0,
            deaths=0,
            slow_disks=0,
        )

    def _rate(self) -> float:
        if self.trace == REPLAY:
            return (self.rate or 1.0) * self.traffic
        if self.rate:
            return self.rate * self.traffic
        shape = Traffic(self.models, self.tenants, self.requests, 1.0)
        seconds = shape.mean_units * shape.unit_seconds * MEAN_UNITS_SHARE
        return self.traffic * self.load * sum(kind.speed for kind in self.fleet()) / seconds


_Traffic = tuple[Sequence[ModelSpec], Sequence[Arrival]]


def _traffic(spec: SceneSpec) -> _Traffic:
    if spec.trace == REPLAY:
        if spec.log is None:
            raise SettingsInvalid("the trace `replay` needs a request log")
        return replayed(spec.log, spec.seed, spec.rate)
    return _made_up(spec)


@lru_cache(maxsize=1)
def _made_up(spec: SceneSpec) -> _Traffic:
    """Kept for the next policy on the same trace."""
    models = catalog(a_random(spec.seed, "models"), spec.models)
    traffic = Traffic(spec.models, spec.tenants, spec.requests, spec.rate)
    return models, tuple(TRACES[spec.trace](a_random(spec.seed, spec.trace), traffic))


def replayed(log: RequestLog, seed: int, times: float = 1.0) -> _Traffic:
    """A log's requests, `times` as fast one after the other. Models of which it tells no sizes
    (removed since, or tried before they were deployed) are fine-tunes of one of which it does, or
    made up if there is none. Run times are put on the reference GPU by `log_speeds` beforehand."""
    numbers: dict[str, int] = {}
    for each in log.requests:
        numbers.setdefault(each.model, len(numbers))
    made_up = iter(catalog(a_random(seed, "models"), len(numbers)))
    draw, known = a_random(seed, "unknown models"), list(log.models.values())
    models = [
        log.models.get(name)
        or (_tuned(draw.choice(known), name) if known else replace(spec, id=ModelId(name)))
        for name, spec in zip(numbers, made_up, strict=True)
    ]
    first = log.requests[0].at_seconds
    arrivals = [
        Arrival(
            (each.at_seconds - first) / times,
            each.tenant,
            numbers[each.model],
            each.work_units,
            each.run_seconds,
            each.priority,
            each.deadline_seconds,
        )
        for each in log.requests
    ]
    return models, arrivals


def _tuned(model: ModelSpec, name: str) -> ModelSpec:
    """A model of the same sizes that shares all but the largest component."""
    largest, _ = next(iter(model.sizes.items()))
    parts = tuple(
        replace(part, digest=Digest(f"{name} {part.digest}")) if part.digest == largest else part
        for part in model.components
    )
    return replace(model, id=ModelId(name), components=parts)


def on_reference(log: RequestLog, speeds: dict[str, float]) -> RequestLog:
    """With every run time as it would have been on a GPU of speed 1."""
    requests = [
        each._replace(run_seconds=each.run_seconds * speeds.get(each.gpu_type, 1.0))
        for each in log.requests
    ]
    return replace(log, requests=requests)


def logged_fleet(log: RequestLog, kinds: dict[str, GpuKind]) -> tuple[GpuKind, ...]:
    """The workers that were attached when the log was written."""
    return tuple(kinds[gpu.gpu_type] for gpu in log.gpus for _ in range(gpu.workers))


def stock(models: Sequence[ModelSpec], room_bytes: int) -> frozenset[Digest]:
    """The components of the first models that fit into a disk."""
    found: set[Digest] = set()
    for model in models:
        new = {digest: size for digest, size in model.sizes.items() if digest not in found}
        room_bytes -= sum(new.values())
        if room_bytes < 0:
            break
        found.update(new)
    return frozenset(found)


def a_random(seed: int, purpose: str) -> Random:
    """Separate chances for separate purposes: another fleet must not mean other requests."""
    return Random(f"{seed} {purpose}")
