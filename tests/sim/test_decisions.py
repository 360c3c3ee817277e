"""Whatever is asked of it, in numbers: the core's decisions on a thousand random fleets.

`QUICKTHAW_TEST_SEEDS` tries more seeds; a failure names its seed.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable
from operator import itemgetter
from random import Random
from typing import NamedTuple

import pytest

from quickthaw.scheduler.core.model import (
    Component,
    Digest,
    Job,
    ModelId,
    ModelSpec,
    Priority,
    RequestId,
    TenantId,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.settings import CoreSettings
from sim.calm import Calm, Done, load_seconds
from sim.seeds import CHUNKS, SEEDS, chunk

UNIT_SECONDS = {"h100": 1.0, "l4": 2.5}
PRICES = PriceTable("sim", 1_000_000, {"h100": 1_000_000, "l4": 250_000})
LONG_LEASE = 10**9


def on_each_seed(number: int, check: Callable[[int], object]) -> None:
    on_each_seed_of(chunk(number), check)


def on_each_seed_of(seeds: Iterable[int], check: Callable[[int], object]) -> None:
    for seed in seeds:
        try:
            check(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed} failed: {error!r}") from error


def a_model(name: str, size: int, *shared: Component) -> ModelSpec:
    own = Component(Digest(name), size)
    return ModelSpec(ModelId(f"sim/{name}"), "sd", f"snapshot-{name}", "", (*shared, own), 1)


def a_worker(number: int, gpu_type: str, vram_bytes: int) -> WorkerSpec:
    return WorkerSpec(WorkerId(f"w{number}"), "i", gpu_type, vram_bytes)


# ---- fairness ----------------------------------------------------------------------------------


def check_fairness(seed: int) -> None:
    """Tenants that always have work get money's worth in the ratio of their weights: at any time
    the difference is within one request of each."""
    random = Random(seed)
    tenants = "abcd"[: random.randrange(2, 5)]
    weights = {tenant: random.choice((0.5, 1.0, 2.0, 3.0)) for tenant in tenants}
    models = [a_model(name, 10) for name in "kl"]
    workers = [
        a_worker(number, random.choice(("h100", "l4")), 1_000)
        for number in range(random.randrange(1, 4))
    ]
    settings = CoreSettings(lease_ms=LONG_LEASE, tenant_weights=weights)
    holding = {digest: size for model in models for digest, size in model.sizes.items()}
    calm = Calm(settings, workers, UNIT_SECONDS, PRICES, holding)
    for tenant in tenants:
        for number in range(12):
            calm.submit(
                Job(
                    RequestId(f"{tenant}{number}"),
                    TenantId(tenant),
                    random.choice(models),
                    1_001,
                    random.choice(list(Priority)),
                    work_units=random.uniform(0.2, 5.0),
                )
            )
    calm.run()
    _assert_fair(list(calm.done.values()), weights, calm)


def _assert_fair(placed: list[Done], weights: dict[str, float], calm: Calm) -> None:
    """`placed` in the order of placement. Before everybody had submitted there was no choice."""
    costs: dict[str, list[float]] = {tenant: [] for tenant in weights}
    left = dict.fromkeys(weights, 12)
    service = dict.fromkeys(weights, 0.0)
    history: list[tuple[dict[str, float], dict[str, int]]] = []
    for done in placed:
        rate = PRICES.rate(calm.workers[done.worker_id].spec.gpu_type)
        cost = done.run_ms * rate / 1_000
        tenant = done.job.tenant
        costs[tenant].append(cost)
        service[tenant] += cost / weights[tenant]
        left[tenant] -= 1
        if done.placed_ms > 1_001:
            history.append((dict(service), dict(left)))
    for one, other in itertools.combinations(weights, 2):
        ahead = [
            service[one] - service[other] for service, left in history if left[one] and left[other]
        ]
        bound = max(costs[one]) / weights[one] + max(costs[other]) / weights[other]
        assert not ahead or max(ahead) - min(ahead) <= bound * (1 + 1e-6), (one, other)


@pytest.mark.parametrize("number", range(CHUNKS))
def test_tenants_with_work_get_their_share_of_the_money_within_one_request_of_each(
    number: int,
) -> None:
    on_each_seed(number, check_fairness)


# ---- starvation --------------------------------------------------------------------------------

WAIT_LIMIT_MS = 5_000
TICK_MS = 1_000


def check_starvation(seed: int) -> None:
    """Big models need a worker for themselves, and small ones keep coming: nobody whose turn it is
    waits longer than the limit, what its worker still has to do, and one run beside its load. (It
    is one's turn from when one is the first in the fair order, for good.)"""
    random = Random(seed)
    small = [a_model(f"s{n}", random.randrange(5, 20)) for n in range(4)]
    big = [a_model(f"b{n}", random.randrange(60, 95)) for n in range(2)]
    workers = [a_worker(number, "h100", 100) for number in range(random.randrange(1, 4))]
    settings = CoreSettings(lease_ms=LONG_LEASE, wait_limit_ms=WAIT_LIMIT_MS, bypass_max=10**6)
    turns: dict[RequestId, int] = {}

    def watch(now_ms: int) -> None:
        for request_id in calm.machine.requests():
            position = calm.machine.queue_position(request_id)
            if position == 0:
                turns.setdefault(request_id, now_ms)
            elif position is not None:
                turns.pop(request_id, None)  # the fair order put another one first

    calm = Calm(settings, workers, UNIT_SECONDS, PRICES, {}, watch)
    for number in range(40):
        calm.submit(
            Job(
                RequestId(f"r{number}"),
                TenantId(random.choice("abc")),
                random.choice(big if random.random() < 0.2 else small),
                1_001 + random.randrange(40_000),
                work_units=random.uniform(0.2, 3.0),
            )
        )
    calm.run()
    longest_ms = max(done.load_ms + done.run_ms for done in calm.done.values())
    longest_run_ms = max(done.run_ms for done in calm.done.values())
    for request_id, turn_ms in turns.items():
        done = calm.done[request_id]
        # The worker that it reserves may have one that runs and those that are next; and one more
        # may have begun to run beside its own load.
        ect_ms = (
            (1 + settings.placement.queue_ahead + settings.placement.queue_ahead_more) * longest_ms
            + done.load_ms
            + longest_run_ms
        )
        waited_ms = done.started_ms - turn_ms
        assert waited_ms <= WAIT_LIMIT_MS + TICK_MS + ect_ms, (request_id, waited_ms, ect_ms)


@pytest.mark.parametrize("number", range(CHUNKS))
def test_nobody_whose_turn_it_is_waits_beyond_the_limit_and_its_own_completion(
    number: int,
) -> None:
    on_each_seed(number, check_starvation)


# ---- quality -----------------------------------------------------------------------------------


def total_cost(
    placed: list[Done], workers: dict[WorkerId, WorkerSpec], policy: CoreSettings
) -> float:
    """In seconds, by the terms of the score: completion, load, money."""
    weights = policy.placement
    total = 0.0
    for done in placed:
        load, run = done.load_ms / 1_000, done.run_ms / 1_000
        worth = PRICES.rate(workers[done.worker_id].gpu_type) / weights.second_worth_nanodollars
        finish = (done.ended_ms - done.job.submitted_ms) / 1_000
        total += finish + weights.load_weight * load + worth * (load + run)
    return total


def best_cost(
    jobs: list[Job],
    workers: dict[WorkerId, WorkerSpec],
    holding: dict[WorkerId, set[Digest]],
    policy: CoreSettings,
) -> float:
    """Of every assignment of the jobs to workers, in the order of submission: who goes before whom
    is a matter of fairness and not of cost."""
    return min(
        total_cost(_played(jobs, choice, holding), workers, policy)
        for choice in itertools.product(workers.values(), repeat=len(jobs))
    )


def _played(
    order: list[Job], choice: tuple[WorkerSpec, ...], holding: dict[WorkerId, set[Digest]]
) -> list[Done]:
    """As `Calm` does it: loads one after the other, runs one after the other, the two overlap, and
    the first that is loaded runs."""
    loads_until = dict.fromkeys(holding, 1_001)
    up = {name: dict.fromkeys(held, 0) for name, held in holding.items()}
    waiting: dict[WorkerId, list[tuple[int, Done]]] = {name: [] for name in holding}
    for job, worker in zip(order, choice, strict=True):
        name = worker.worker_id
        missing = {d: s for d, s in job.model.sizes.items() if d not in up[name]}
        run_ms = round(1_000 * UNIT_SECONDS[worker.gpu_type] * job.work_units)
        load_ms = round(1_000 * load_seconds(sum(missing.values())))
        if missing:
            loads_until[name] = max(job.submitted_ms, loads_until[name]) + load_ms
            up[name] |= dict.fromkeys(missing, loads_until[name])
        up_ms = max([job.submitted_ms] + [up[name][digest] for digest in job.model.sizes])
        waiting[name].append((up_ms, Done(job, name, 0, load_ms, 0, run_ms)))
    return [done for line in waiting.values() for done in _run_out(line)]


def _run_out(line: list[tuple[int, Done]]) -> list[Done]:
    now_ms, left, ran = 0, list(line), list[Done]()
    while left:
        now_ms = max(now_ms, min(up_ms for up_ms, _ in left))
        first = next(each for each in left if each[0] <= now_ms)
        left.remove(first)
        first[1].started_ms = now_ms
        now_ms += first[1].run_ms
        ran.append(first[1])
    return ran


def best_in_turn(
    jobs: list[Job],
    workers: dict[WorkerId, WorkerSpec],
    holding: dict[WorkerId, set[Digest]],
    policy: CoreSettings,
) -> float:
    """Of one who tries every worker for each job as it comes, and knows of no later one."""
    choice: tuple[WorkerSpec, ...] = ()
    cost = 0.0
    for number in range(1, len(jobs) + 1):
        tried = [(*choice, worker) for worker in workers.values()]
        costs = [
            total_cost(_played(jobs[:number], each, holding), workers, policy) for each in tried
        ]
        cost = min(costs)
        choice = tried[costs.index(cost)]
    return cost


class Ratios(NamedTuple):
    """Our cost for a few requests at once."""

    to_best: float
    """Over the least possible one, all requests being known beforehand."""
    to_best_in_turn: float
    """Over that of the best decision on each of them as it comes."""


def small_case(seed: int) -> Ratios:
    random = Random(seed)
    shared = Component(Digest("text"), 5)
    models = [a_model(name, random.randrange(5, 40), shared) for name in "kl"]
    workers = {
        spec.worker_id: spec
        for number in range(random.randrange(2, 4))
        for spec in [a_worker(number, random.choice(("h100", "l4")), 1_000)]
    }
    jobs = [
        Job(
            RequestId(f"r{number}"),
            TenantId("a"),
            random.choice(models),
            1_001,
            work_units=random.uniform(0.5, 5.0),
        )
        for number in range(random.randrange(1, 5))
    ]
    settings = CoreSettings(lease_ms=LONG_LEASE)
    calm = Calm(settings, list(workers.values()), UNIT_SECONDS, PRICES, {})
    holding: dict[WorkerId, set[Digest]] = {worker_id: set() for worker_id in workers}
    for job in jobs:
        calm.submit(job)
    calm.run()
    ours = total_cost(list(calm.done.values()), workers, settings)
    return Ratios(
        ours / best_cost(jobs, workers, holding, settings),
        ours / best_in_turn(jobs, workers, holding, settings),
    )


def test_small_cases_cost_little_more_than_the_best_that_could_be_done() -> None:
    """Whoever knows all requests beforehand does better at times, whatever we do: a fast worker may
    turn out to be wanted for the next one, which no decision can know. Every case is judged
    against the best decisions on what was known, and nearly all of them against the best of all."""
    ratios: dict[int, Ratios] = {}
    on_each_seed_of(range(SEEDS), lambda seed: ratios.update({seed: small_case(seed)}))
    in_turn = {seed: ratio.to_best_in_turn for seed, ratio in ratios.items()}
    assert max(in_turn.values()) <= 1.25, max(in_turn.items(), key=itemgetter(1))
    assert statistics.mean(in_turn.values()) <= 1.01
    beyond = {seed: ratio.to_best for seed, ratio in ratios.items() if ratio.to_best > 1.25}
    assert statistics.mean(ratio.to_best for ratio in ratios.values()) <= 1.02
    assert len(beyond) <= max(2, 0.002 * len(ratios)), beyond
    assert max(ratio.to_best for ratio in ratios.values()) <= 1.3, beyond
