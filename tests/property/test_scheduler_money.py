"""A thousand random lives of the core with money in it, each judged by an oracle: the ledger to the
last unit, replays absorbed, holds released however a request ends, and restarts in between."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from quickthaw.scheduler.core.accounts import (
    Grant,
    GrantCredit,
    SetBudget,
    SetLock,
    Span,
)
from quickthaw.scheduler.core.events import (
    CancelRequested,
    PricesChanged,
    WorkerDisconnected,
)
from quickthaw.scheduler.core.model import Outcome, OutputUnits, WorkerId
from quickthaw.scheduler.core.pricing import ModelPrice, PriceTable, Unit
from quickthaw.scheduler.core.settings import CoreSettings
from support.core_builders import a_job, a_model, a_worker
from support.money_world import MoneyWorld, tenant_account

SEEDS = 1_000
CHUNKS = 20
STEPS = 40
DAY_MS = 86_400_000
MODELS = [a_model("plain", gib=3), a_model("dear", gib=4), a_model("pictures", gib=5)]
TENANTS = ("acme", "beta")
KEYS = ("", "k1", "k2")


def a_table(version: int, random: Random) -> PriceTable:
    return PriceTable(
        f"v{version}",
        random.randrange(1, 2_000_000),
        {"h100": random.randrange(2_000_000), "cheap": random.randrange(1, 200_000)},
        {
            "test/dear": ModelPrice(random.randrange(5_000_000), {"cheap": random.randrange(9**6)}),
            "test/pictures": ModelPrice(
                unit=random.choice(list(Unit)), unit_price_nanodollars=random.randrange(10**7)
            ),
        },
    )


def a_world(seed: int) -> MoneyWorld:
    random = Random(seed)
    settings = CoreSettings(lease_ms=5_000, heartbeat_interval_ms=500, meter_lease_ms=2_000)
    world = MoneyWorld(settings, a_table(0, random), seed)
    world.attach(a_worker("w1", gpu_type="h100", concurrency=2))
    world.attach(a_worker("w2", gpu_type="cheap"))
    return world


def step(world: MoneyWorld, number: int) -> None:
    random = world.random
    match random.randrange(14):
        case 0 | 1 | 2:
            world.submit(
                replace(
                    a_job(model=random.choice(MODELS), tenant=random.choice(TENANTS)),
                    key_id=random.choice(KEYS),
                    outputs=OutputUnits(random.randrange(1, 4), random.randrange(10**6), 1_500),
                    deadline_ms=random.choice((0, 0, world.now_ms + 9_000)),
                )
            )
        case 3 | 4:
            for attempt_id in list(world.running):
                if random.random() < 0.5:
                    world.begin(attempt_id)
        case 5 | 6:
            world.wait(random.choice((1, 333, 2_000)))
            world.obey()
        case 7:
            for worker_id in world.workers:
                world.heartbeat(worker_id)
        case 8 | 9:
            begun = [each for each, found in world.running.items() if found.began_ms is not None]
            if begun:
                outputs = OutputUnits(random.randrange(4), random.randrange(9**7), 1_234)
                world.finish(random.choice(begun), random.choice(list(Outcome)), outputs)
        case 10:
            open_requests = list(world.machine.requests())
            if open_requests:
                world.feed(CancelRequested(random.choice(open_requests)))
        case 11:
            account = tenant_account(random.choice(TENANTS), random.choice(KEYS))
            bound = random.choice((None, 0, random.randrange(10**7), random.randrange(10**8)))
            grant = Grant(f"g{number}", random.randrange(-(10**6), 10**7), "", world.now_ms)
            change = random.choice(
                (
                    SetBudget(bound, random.choice(list(Span)), (50, 90, 100)),
                    SetLock(random.random() < 0.3, "because"),
                    GrantCredit(grant),
                )
            )
            world.change(account, change)
        case 12:
            world.prices = a_table(number + 1, random)
            world.feed(PricesChanged(world.prices))
        case _:
            what = random.randrange(4)
            if what == 0:
                world.restart()
            elif what == 1:
                # Longer than the lease: what ran there is lost, and free.
                world.feed(WorkerDisconnected(WorkerId("w2")))
                world.running = {
                    attempt_id: found
                    for attempt_id, found in world.running.items()
                    if found.assign.worker_id != "w2"
                }
                world.wait(6_000)
                world.attach(a_worker("w2", gpu_type="cheap", incarnation=f"boot{number}"))
                world.attach(world.workers[WorkerId("w1")])
            elif what == 2:
                world.wait(random.choice((DAY_MS, 32 * DAY_MS)))
                for spec in list(world.workers.values()):
                    world.attach(spec)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_ledger_is_what_an_oracle_says_and_no_hold_outlives_its_request(chunk: int) -> None:
    for seed in range(chunk * SEEDS // CHUNKS, (chunk + 1) * SEEDS // CHUNKS):
        world = a_world(seed)
        try:
            for number in range(STEPS):
                step(world, number)
            world.check()
            for tenant in TENANTS:
                for key_id in KEYS:
                    account = tenant_account(tenant, key_id)
                    world.change(account, SetBudget(None, Span.TOTAL, ()))
                    world.change(account, SetLock(False))
                    grant = Grant(f"last-{account}", 10**13, "", world.now_ms)
                    world.change(account, GrantCredit(grant))
            world.drain()
            world.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
