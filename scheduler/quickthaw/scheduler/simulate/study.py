"""What is asked of the simulator: compare policies, take our score apart, size a fleet.

Each answer is made of independent simulations, which `run_all` spreads over processes; a `Task` is
small enough to be handed to one.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from random import Random

from quickthaw.scheduler.core.model import ModelSpec
from quickthaw.scheduler.core.numbers import with_numbers
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.simulate.kinds import GIB, GpuKind
from quickthaw.scheduler.simulate.ours import LEASE_MS, Ours
from quickthaw.scheduler.simulate.outcome import Figures
from quickthaw.scheduler.simulate.policies import BASELINES
from quickthaw.scheduler.simulate.port import Policy
from quickthaw.scheduler.simulate.run import Simulation
from quickthaw.scheduler.simulate.scenes import Scene, SceneSpec
from quickthaw.wire.errors import SettingsInvalid

OURS = "quickthaw"
UNBOUNDED = 10**9

ABLATIONS: Mapping[str, Mapping[str, float]] = {
    "no charge for loads (mu = 0)": {"load_weight": 0.0},
    "no price (lambda = 0)": {"second_worth_nanodollars": 10**12},
    "no charge for evictions (nu = 0)": {"eviction_weight": 0.0},
    "no warm ones first": {"collation_max": 0},
    "nothing held ahead": {"queue_ahead": 0, "queue_ahead_more": 0},
    "never scarce": {"few_workers_max": 0, "scarce_idle_share": 0.0},
    "no candidates by residency": {"resident_candidates": 0},
}
"""Each leaves one thing out of our policy: what it contributes is what is lost without it."""


@dataclass(frozen=True, slots=True)
class Task:
    """One simulation. `label` is what its figures are called."""

    spec: SceneSpec
    policy: str
    changes: Mapping[str, float] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.policy


def core_settings(changes: Mapping[str, float]) -> CoreSettings:
    """Our policy with some of its numbers changed, by name. Raises SettingsInvalid."""
    core = CoreSettings(lease_ms=LEASE_MS, queue_max=UNBOUNDED, queue_max_per_tenant=UNBOUNDED)
    return with_numbers(core, changes)


def simulate(scene: Scene, policy: str, changes: Mapping[str, float] | None = None) -> Figures:
    workers = scene.workers()
    chosen: Policy
    if policy == OURS:
        chosen = Ours(workers, scene.kinds, core_settings(changes or {}))
    else:
        chosen = BASELINES[policy](workers, Random(scene.seed))
    simulation = Simulation(scene.models, workers, chosen, scene.faults())
    with _nothing_to_collect():
        return simulation.run(scene.arrivals).figures()


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Spares the garbage collector the fleet and the traffic, which live to the end: going through
    ten thousand workers again and again is a fifth of the time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run(task: Task) -> Figures:
    """Raises SettingsInvalid if some model fits on none of the workers: it would wait for ever."""
    scene = task.spec.scene()
    room_bytes = max(kind.vram_bytes for kind in scene.kinds)
    largest = max(scene.models, key=_room_bytes)
    if _room_bytes(largest) > room_bytes:
        raise SettingsInvalid(
            f"{largest.id} needs {_room_bytes(largest) / GIB:.1f} GiB and the largest GPU of this "
            f"fleet has {room_bytes / GIB:.1f}; add a larger one with --gpu"
        )
    return simulate(scene, task.policy, task.changes)


def _room_bytes(model: ModelSpec) -> int:
    return model.weight_bytes + model.working_bytes


def run_all(tasks: Sequence[Task], processes: int) -> Iterator[tuple[Task, Figures]]:
    """In the order of the tasks, each as soon as it and those before it are done."""
    if processes <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, run(task)
        return
    # Forked from a process of its own: the caller may have threads.
    context = get_context("forkserver")
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context) as pool:
        yield from zip(tasks, pool.map(run, tasks), strict=True)


def ablation(spec: SceneSpec, changes: Mapping[str, float]) -> list[Task]:
    """Ours first, then ours without one thing at a time."""
    tasks = [Task(spec, OURS, changes)]
    for name, without in ABLATIONS.items():
        tasks.append(Task(spec, OURS, {**changes, **without}, name))
    return tasks


# ---- how many ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Promise:
    """What a fleet shall keep, and where the search for it ends."""

    p99_seconds: float
    workers_max: int = 4_096


@dataclass(frozen=True, slots=True)
class Sized:
    """The smallest fleet of one kind that keeps the promise; None for the number if none within
    bounds does, and for the figures too if the largest model does not fit at all."""

    kind: GpuKind
    workers: int | None
    figures: Figures | None

    @property
    def dollars_per_hour(self) -> float | None:
        """For the whole fleet, whether it works or not."""
        if self.workers is None:
            return None
        return self.workers * self.kind.rate_nanodollars_per_second * 3600 / 1e9


@dataclass(frozen=True, slots=True)
class Question:
    """How many GPUs of one kind are enough for this traffic."""

    spec: SceneSpec
    kind: GpuKind
    promise: Promise
    changes: Mapping[str, float] = field(default_factory=dict)


def size_fleet(question: Question) -> Sized:
    """Doubling, then halving the gap. More workers are taken to be no worse, which noise can break
    by one or two; a fleet that refuses requests does not keep the promise."""
    kind, promise = question.kind, question.promise
    scene = question.spec.with_fleet(kind, 1).scene()
    if max(map(_room_bytes, scene.models)) > kind.vram_bytes:
        return Sized(kind, None, None)

    def tried(count: int) -> Figures:
        return simulate(replace(scene, kinds=[kind] * count), OURS, question.changes)

    def kept(figures: Figures) -> bool:
        return figures.p99_seconds <= promise.p99_seconds and not figures.refused

    # Fewer could not even run it all.
    asked = sum(each.run_seconds for each in scene.arrivals) / kind.speed
    span = max(1.0, scene.arrivals[-1].at_seconds)
    too_few = min(int(asked / (span + promise.p99_seconds)), promise.workers_max - 1)
    enough, found = too_few + 1, tried(too_few + 1)
    while not kept(found) and enough < promise.workers_max:
        too_few, enough = enough, min(2 * enough, promise.workers_max)
        found = tried(enough)
    if not kept(found):
        return Sized(kind, None, found)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        figures = tried(middle)
        if kept(figures):
            enough, found = middle, figures
        else:
            too_few = middle
    return Sized(kind, enough, found)


def size_all(questions: Sequence[Question], processes: int) -> Iterator[Sized]:
    """In the order of the questions."""
    if processes <= 1 or len(questions) <= 1:
        yield from map(size_fleet, questions)
        return
    context = get_context("forkserver")
    with ProcessPoolExecutor(min(processes, len(questions)), mp_context=context) as pool:
        yield from pool.map(size_fleet, questions)
