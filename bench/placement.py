"""How fast is one placement decision, with 1,000 workers and 10,000 models?

The fleet is warm: every worker holds some models in VRAM and more in pinned memory and on disk, as
a Zipf-popular history leaves them; about two thirds of the places are taken. Decisions alone are
timed first (`place`, nothing changes), then whole requests through the machine: journalled, placed,
run, finished. Then decisions again with ten times the workers, and with ten times the models: their
cost should not grow with either.

    python -m bench.placement [--workers 1000] [--models 10000] [--decisions 20000] [--seed 1]
        [--without-growth]
"""

from __future__ import annotations

import argparse
import gc
from random import Random
from time import perf_counter_ns, thread_time_ns

from bench.support import quantile, record

from quickthaw.scheduler.core.commands import SendAssign
from quickthaw.scheduler.core.estimates import LearnedEstimates
from quickthaw.scheduler.core.events import (
    AttemptFinished,
    AttemptLoading,
    AttemptRunning,
    RequestJournalled,
    WorkerHello,
)
from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import (
    Component,
    Digest,
    Job,
    ModelId,
    ModelSpec,
    Outcome,
    RequestId,
    Residency,
    TenantId,
    Tier,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.placement import place
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.query import Placement, Query
from quickthaw.scheduler.core.settings import CoreSettings, PlacementPolicy

GIB = 1 << 30
GPU_TYPES = {"h100-80gb": 1_200_000, "a100-40gb": 600_000, "l40s-48gb": 400_000, "l4-24gb": 200_000}
VRAM_GIB = {"h100-80gb": 80, "a100-40gb": 40, "l40s-48gb": 48, "l4-24gb": 24}
PRICES = PriceTable("bench", 1_000_000, GPU_TYPES)


def some_models(random: Random, count: int) -> list[ModelSpec]:
    """Twenty families, whose members share their text encoder and VAE; 4 to 14 GiB in all."""
    families = [
        (
            Component(Digest(f"text-{f}"), random.randrange(1, 4) * GIB // 2),
            Component(Digest(f"vae-{f}"), GIB // 4),
        )
        for f in range(20)
    ]
    models = []
    for number in range(count):
        own = Component(Digest(f"unet-{number}"), random.randrange(6, 24) * GIB // 2)
        parts = (*random.choice(families), own)
        models.append(ModelSpec(ModelId(f"bench/{number}"), "sdxl", f"s{number}", "", parts, GIB))
    return models


class Popularity:
    """Zipf with exponent 1: model k is asked for in proportion to 1 / (k + 1)."""

    def __init__(self, random: Random, models: list[ModelSpec]) -> None:
        self._random, self._models = random, models
        self._weights: list[float] = []
        total = 0.0
        for rank in range(len(models)):
            total += 1.0 / (rank + 1)
            self._weights.append(total)

    def draw(self, count: int) -> list[ModelSpec]:
        return self._random.choices(self._models, cum_weights=self._weights, k=count)


def some_workers(random: Random, count: int, popularity: Popularity) -> list[WorkerHello]:
    hellos = []
    for number in range(count):
        gpu_type = random.choice(list(GPU_TYPES))
        spec = WorkerSpec(WorkerId(f"w{number:04}"), "i", gpu_type, VRAM_GIB[gpu_type] * GIB)
        holding: dict[tuple[Digest, Tier], int] = {}
        budget = {Tier.VRAM: spec.vram_bytes - 2 * GIB, Tier.PINNED: 64 * GIB, Tier.DISK: 400 * GIB}
        for tier, free in budget.items():
            for model in popularity.draw(60):
                sizes = {d: s for d, s in model.sizes.items() if (d, tier) not in holding}
                if (wanted := sum(sizes.values())) > free:
                    break
                free -= wanted
                holding.update({(digest, tier): size for digest, size in sizes.items()})
        residency = tuple(Residency(d, tier, size) for (d, tier), size in holding.items())
        hellos.append(WorkerHello(spec, residency))
    return hellos


def a_job(number: int, model: ModelSpec, now_ms: int) -> Job:
    tenant = TenantId(f"tenant-{number % 50}")
    return Job(RequestId(f"req_{number:06}"), tenant, model, now_ms, work_units=20.0)


def busy_fleet(hellos: list[WorkerHello], jobs: list[Job]) -> tuple[Fleet, LearnedEstimates, int]:
    """A fleet with some places taken, through the machine, so that the load is a real one."""
    machine = Machine(CoreSettings(), PRICES)
    for hello in hellos:
        machine.handle(hello, 0)
    placed = 0
    for job in jobs:
        found = machine.handle(RequestJournalled(job), 0)
        placed += any(isinstance(command, SendAssign) for command in found)
    state = machine._state  # The parts are measured on their own; no caller needs them.
    assert isinstance(state.estimates, LearnedEstimates)
    return state.fleet, state.estimates, placed


def time_decisions(fleet: Fleet, estimates: LearnedEstimates, jobs: list[Job]) -> dict[str, object]:
    policy = PlacementPolicy()
    spans: list[float] = []
    cpu_spans: list[float] = []
    placed = warm = looked_at = 0
    for job in jobs:
        query = Query(job)
        began, cpu_began = perf_counter_ns(), thread_time_ns()
        found = place(query, fleet, estimates, policy, 1_000)
        cpu_spans.append((thread_time_ns() - cpu_began) / 1000)
        spans.append((perf_counter_ns() - began) / 1000)
        looked_at += len(found.candidates) + len(found.refusals)
        if isinstance(found, Placement):
            placed += 1
            warm += found.warm
    assert placed > 0.5 * len(jobs), f"only {placed} of {len(jobs)} found a worker"
    return {
        "decisions_per_second": round(1e6 * len(spans) / sum(spans)),
        "p50_us": round(quantile(spans, 0.50), 1),
        "p99_us": round(quantile(spans, 0.99), 1),
        "p999_us": round(quantile(spans, 0.999), 1),
        # Of the processor alone: what the wall shows beyond it, others on this machine took.
        "cpu_decisions_per_second": round(1e6 * len(spans) / sum(cpu_spans)),
        "cpu_p50_us": round(quantile(cpu_spans, 0.50), 1),
        "cpu_p99_us": round(quantile(cpu_spans, 0.99), 1),
        "placed": placed,
        "warm": warm,
        "workers_looked_at_mean": round(looked_at / len(jobs), 1),
    }


def time_requests(hellos: list[WorkerHello], jobs: list[Job], in_flight: int) -> dict[str, object]:
    """Whole requests: accepted, placed, loading, running, finished, with `in_flight` at a time."""
    machine = Machine(CoreSettings(), PRICES)
    for hello in hellos:
        machine.handle(hello, 0)
    running: list[SendAssign] = []
    ended = 0
    began, cpu_began = perf_counter_ns(), thread_time_ns()
    for now_ms, job in enumerate(jobs, 1):
        commands = machine.handle(RequestJournalled(job), now_ms)
        if len(running) >= in_flight:
            assign = running.pop(0)
            worker_id, attempt_id = assign.worker_id, assign.attempt_id
            machine.handle(AttemptLoading(worker_id, attempt_id), now_ms)
            machine.handle(AttemptRunning(worker_id, attempt_id), now_ms)
            commands += machine.handle(
                AttemptFinished(
                    worker_id, attempt_id, assign.job.request_id, Outcome.SUCCEEDED, 1_000
                ),
                now_ms,
            )
            ended += 1
        running += [command for command in commands if isinstance(command, SendAssign)]
    seconds, cpu_seconds = (
        (perf_counter_ns() - began) / 1e9,
        (thread_time_ns() - cpu_began) / 1e9,
    )
    assert ended > 0.9 * (len(jobs) - in_flight), f"only {ended} of {len(jobs)} ended"
    return {
        "requests_per_second": round(ended / seconds),
        "cpu_requests_per_second": round(ended / cpu_seconds),
        "ended": ended,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-growth", action="store_true", help="measure one size alone")
    options = parser.parse_args()
    results = at_size(options.seed, options.workers, options.models, options.decisions)
    if not options.without_growth:
        fewer = max(1_000, options.decisions // 4)
        for name, workers, models in (
            ("ten_times_the_workers", 10 * options.workers, options.models),
            ("ten_times_the_models", options.workers, 10 * options.models),
        ):
            grown = at_size(options.seed, workers, models, fewer, whole=False)
            results[name] = grown["decision"]
    record("placement", vars(options), results)


def at_size(
    seed: int, workers: int, models: int, decisions: int, *, whole: bool = True
) -> dict[str, object]:
    """What a decision costs in a fleet of this size; with `whole`, what a request costs, too."""
    random = Random(seed)
    popularity = Popularity(random, some_models(random, models))
    hellos = some_workers(random, workers, popularity)
    load = workers * 4 // 3
    asked = popularity.draw(decisions + load)
    jobs = [a_job(number, model, 0) for number, model in enumerate(asked)]
    fleet, estimates, taken = busy_fleet(hellos, jobs[:load])
    gc.collect()
    gc.freeze()
    results: dict[str, object] = {
        "places_taken": taken,
        "decision": time_decisions(fleet, estimates, jobs[load:]),
    }
    if whole:
        results["whole_request"] = time_requests(hellos, jobs[load:], workers)
    return results


if __name__ == "__main__":
    main()
