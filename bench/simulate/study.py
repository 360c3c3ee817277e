"""What is asked of the simulator: compare policies, take our score apart, size a fleet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from bench.simulate.ours import LEASE_MS, Ours
from bench.simulate.outcome import Figures
from bench.simulate.policies import BASELINES, Policy
from bench.simulate.run import Fault, Simulation
from bench.simulate.traces import GIB, Arrival
from bench.simulate.world import GpuKind, VirtualWorker

from quickthaw.scheduler.core.model import ModelSpec
from quickthaw.scheduler.core.settings import CoreSettings, PlacementPolicy

OURS = "quickthaw"
UNBOUNDED = 10**9

ABLATIONS: Mapping[str, Mapping[str, float]] = {
    "no charge for loads (mu = 0)": {"load_weight": 0.0},
    "no price (lambda = 0)": {"second_worth_nanodollars": 10**12},
    "no charge for evictions (nu = 0)": {"eviction_weight": 0.0},
    "no warm ones first": {"collation_max": 0},
    "nothing held ahead": {"queue_ahead": 0},
    "no candidates by residency": {"resident_candidates": 0},
}
"""Each leaves one thing out of our policy: what it contributes is what is lost without it."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a policy meets; equal for all of them."""

    models: Sequence[ModelSpec]
    arrivals: Sequence[Arrival]
    kinds: Sequence[GpuKind]
    """The fleet: one worker each."""
    stocked_bytes: int
    """Every disk holds the most popular models up to this size at the start."""
    seed: int
    deaths: int = 0
    slow_disks: int = 0

    def workers(self) -> list[VirtualWorker]:
        seeds = Random(self.seed)
        workers = [
            VirtualWorker(f"w{number:05}", kind, Random(seeds.random()))
            for number, kind in enumerate(self.kinds)
        ]
        for worker in workers:
            worker.stock(self.models, self.stocked_bytes)
        return workers

    def faults(self) -> list[Fault]:
        """Deaths of a minute and slow disks of five, at random moments well inside the trace."""
        chance, span = Random(self.seed + 1), self.arrivals[-1].at_seconds
        busy: set[int] = set()
        found = []
        for number in range(min(self.deaths + self.slow_disks, len(self.kinds))):
            worker = chance.choice([w for w in range(len(self.kinds)) if w not in busy])
            busy.add(worker)
            at_seconds = span * chance.uniform(0.1, 0.8)
            slow = number >= self.deaths
            found.append(Fault(at_seconds, worker, 300.0 if slow else 60.0, 10.0 if slow else 0.0))
        return found


def core_settings(changes: Mapping[str, float]) -> CoreSettings:
    """Our policy with some numbers changed, by the names of its settings.

    Raises TypeError for a name that is none.
    """
    of_placement = PlacementPolicy.__dataclass_fields__
    placement = {name: value for name, value in changes.items() if name in of_placement}
    others = {name: value for name, value in changes.items() if name not in of_placement}
    core = CoreSettings(lease_ms=LEASE_MS, queue_max=UNBOUNDED, queue_max_per_tenant=UNBOUNDED)
    return replace(core, placement=replace(core.placement, **placement), **others)  # type: ignore[arg-type]  # by name


def simulate(scene: Scene, policy: str, changes: Mapping[str, float] | None = None) -> Figures:
    workers = scene.workers()
    chosen: Policy
    if policy == OURS:
        chosen = Ours(workers, scene.kinds, core_settings(changes or {}))
    else:
        chosen = BASELINES[policy](workers, Random(scene.seed))
    return Simulation(scene.models, workers, chosen, scene.faults()).run(scene.arrivals).figures()


def compare(
    scene: Scene, policies: Sequence[str], changes: Mapping[str, float]
) -> Iterator[tuple[str, Figures]]:
    for policy in policies:
        yield policy, simulate(scene, policy, changes if policy == OURS else None)


def ablate(scene: Scene, changes: Mapping[str, float]) -> Iterator[tuple[str, Figures]]:
    yield OURS, simulate(scene, OURS, changes)
    for name, without in ABLATIONS.items():
        yield name, simulate(scene, OURS, {**changes, **without})


@dataclass(frozen=True, slots=True)
class Sized:
    """The smallest fleet of one kind that keeps the promise, or None of a size within bounds."""

    kind: GpuKind
    workers: int | None
    figures: Figures | None

    @property
    def dollars_per_hour(self) -> float | None:
        """For the whole fleet, whether it works or not."""
        if self.workers is None:
            return None
        return self.workers * self.kind.rate_nanodollars_per_second * 3600 / 1e9


def size_fleet(
    scene: Scene, kind: GpuKind, p99_seconds: float, workers_max: int, changes: Mapping[str, float]
) -> Sized:
    """How many GPUs of one kind keep the 99th percentile under `p99_seconds`: doubling, then
    halving the gap. More workers are taken to be no worse, which noise can break by one or two."""
    room = max(model.weight_bytes + model.working_bytes for model in scene.models)
    if room > kind.vram_bytes:
        return Sized(kind, None, None)

    def run(count: int) -> Figures:
        return simulate(replace(scene, kinds=[kind] * count), OURS, changes)

    enough, found = 1, run(1)
    while found.p99_seconds > p99_seconds and enough < workers_max:
        enough = min(2 * enough, workers_max)
        found = run(enough)
    if found.p99_seconds > p99_seconds:
        return Sized(kind, None, found)
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        tried = run(middle)
        if tried.p99_seconds <= p99_seconds:
            enough, found = middle, tried
        else:
            too_few = middle
    return Sized(kind, enough, found)


def stocked(models: Sequence[ModelSpec], gib: float) -> int:
    """A disk's worth, at most all models."""
    return min(int(gib * GIB), sum(model.weight_bytes for model in models))


def a_random(seed: int, purpose: str) -> Random:
    """Separate chances for separate purposes: another fleet must not mean other requests."""
    return Random(f"{seed} {purpose}")
