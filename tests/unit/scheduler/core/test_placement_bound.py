"""The bound by which large fleets are searched changes no choice."""

from __future__ import annotations

from random import Random

import pytest

from quickthaw.scheduler.core.estimates import LearnedEstimates
from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.model import AttemptId, Job, Tier
from quickthaw.scheduler.core.placement import place
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.query import Placement, Query
from quickthaw.scheduler.core.settings import PlacementPolicy
from quickthaw.scheduler.core.worker import Held
from support.core_builders import a_component, a_job, a_model, a_worker, resident

BOUNDED = PlacementPolicy(explain_workers_max=0, resident_candidates=64, idle_candidates=64)
"""As many candidates as there are workers, so that both look at the same ones."""
FULL = PlacementPolicy(explain_workers_max=64, resident_candidates=64, idle_candidates=64)
PRICES = PriceTable("test", 1_000_000, {"h100": 1_200_000, "l4": 200_000})


def a_fleet(random: Random, estimates: LearnedEstimates) -> tuple[Fleet, list[Job]]:
    fleet = Fleet(estimates, queue_ahead=1)
    text = a_component("text", gib=2)
    models = [a_model(f"m{n}", gib=random.randrange(2, 20), shared=(text,)) for n in range(8)]
    for number in range(20):
        spec = a_worker(f"w{number:02}", gpu_type=random.choice(["h100", "l4"]), free_gib=24)
        worker = fleet.attach(spec, PRICES.rate(spec.gpu_type), 0)
        for tier in (Tier.VRAM, Tier.PINNED, Tier.DISK):
            for model in random.sample(models, random.randrange(3)):
                fleet.change_residency(worker, resident(model, tier), ())
        for attempt in range(random.randrange(3)):
            held = Held(random.choice(models), (), random.randrange(20_000))
            fleet.hold(worker, AttemptId(f"other_{number}.{attempt}"), held)
    jobs = [a_job(f"req_{n}", model, work_units=5.0) for n, model in enumerate(models)]
    return fleet, jobs


@pytest.mark.parametrize("seed", range(40))
def test_a_large_fleet_chooses_as_a_small_one_that_scores_everybody(seed: int) -> None:
    estimates = LearnedEstimates(1_000)
    fleet, jobs = a_fleet(Random(seed), estimates)
    for job in jobs:
        bounded = place(Query(job, patient=False), fleet, estimates, BOUNDED, 1_000)
        full = place(Query(job, patient=False), fleet, estimates, FULL, 1_000)
        assert isinstance(bounded, Placement) == isinstance(full, Placement)
        if isinstance(bounded, Placement) and isinstance(full, Placement):
            assert bounded.chosen == full.chosen
            assert len(bounded.candidates) <= len(full.candidates)
