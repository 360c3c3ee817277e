"""The simulator: nothing is lost in it, equal seeds give equal figures, questions get answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quickthaw.scheduler.simulate.kinds import ASSUMED, GIB, GpuKind
from quickthaw.scheduler.simulate.outcome import Figures
from quickthaw.scheduler.simulate.policies import BASELINES
from quickthaw.scheduler.simulate.scenes import SceneSpec
from quickthaw.scheduler.simulate.study import (
    OURS,
    Promise,
    Question,
    Task,
    ablation,
    core_settings,
    run,
    run_all,
    simulate,
    size_fleet,
)
from quickthaw.scheduler.simulate.traces import TRACES
from quickthaw.wire.errors import SettingsInvalid

REQUESTS = 300


def a_spec(
    trace: str = "steady",
    *,
    seed: int = 1,
    deaths: int = 0,
    slow_disks: int = 0,
    kinds: tuple[str, ...] = ("h100", "l40s", "l40s", "h100"),
) -> SceneSpec:
    return SceneSpec(
        trace,
        tuple(ASSUMED[name] for name in kinds),
        workers=8,
        seed=seed,
        requests=REQUESTS,
        models=40,
        tenants=4,
        rate=2.0,
        disk_gib=100.0,
        deaths=deaths,
        slow_disks=slow_disks,
    )


def figures(spec: SceneSpec, policy: str = OURS) -> Figures:
    return run(Task(spec, policy))


@pytest.mark.parametrize("policy", [OURS, *BASELINES])
@pytest.mark.parametrize("trace", TRACES)
def test_every_request_of_every_trace_ends_once(policy: str, trace: str) -> None:
    found = figures(a_spec(trace), policy)
    assert found.requests == REQUESTS
    assert found.refused == 0
    assert 0 < found.p50_seconds <= found.p95_seconds <= found.p99_seconds
    assert 0 < found.busy_share <= 1
    assert found.remote_share <= found.cold_share
    assert 0 <= found.fairness_error <= 1


@pytest.mark.parametrize("policy", [OURS, "random", "serverlessllm"])
def test_deaths_and_slow_disks_lose_time_and_no_request(policy: str) -> None:
    calm = figures(a_spec(), policy)
    hit = figures(a_spec(deaths=3, slow_disks=2), policy)
    assert hit.requests == calm.requests == REQUESTS
    assert hit.lost_attempts > 0
    assert hit.p99_seconds > calm.p99_seconds


def test_equal_seeds_give_equal_figures_and_others_do_not() -> None:
    assert figures(a_spec(seed=5)) == figures(a_spec(seed=5))
    assert figures(a_spec(seed=5)) != figures(a_spec(seed=6))


def test_simulations_in_other_processes_give_the_same_figures_in_the_same_order() -> None:
    tasks = [Task(a_spec(), policy) for policy in (OURS, "random", "modelmesh")]
    assert list(run_all(tasks, 2)) == list(run_all(tasks, 1))


def test_a_request_whose_deadline_passes_is_refused_and_the_rest_ends() -> None:
    scene = a_spec().scene()
    hurried = [
        each._replace(deadline_seconds=0.5) if number % 10 == 0 else each
        for number, each in enumerate(scene.arrivals)
    ]
    found = simulate(replace(scene, arrivals=hurried), OURS)
    assert found.refused > 0
    assert found.requests + found.refused == REQUESTS


def test_a_fleet_is_sized_to_the_smallest_that_keeps_the_promise() -> None:
    question = Question(a_spec(), ASSUMED["h100"], Promise(40.0, 64))
    sized = size_fleet(question)
    assert sized.workers is not None
    assert sized.figures is not None
    assert sized.figures.p99_seconds <= 40.0
    one_less = figures(a_spec().with_fleet(sized.kind, sized.workers - 1))
    assert one_less.p99_seconds > 40.0
    assert sized.dollars_per_hour == pytest.approx(sized.workers * 1.1e6 * 3600 / 1e9)


def test_a_fleet_too_small_for_the_largest_model_has_no_size() -> None:
    tiny = GpuKind("tiny", GIB, GIB, 1, 1.0, ASSUMED["l4"].tiers)
    assert size_fleet(Question(a_spec(), tiny, Promise(40.0, 8))).figures is None


def test_a_promise_that_no_number_keeps_has_no_size() -> None:
    sized = size_fleet(Question(a_spec(), ASSUMED["h100"], Promise(0.01, 4)))
    assert sized.workers is None
    assert sized.dollars_per_hour is None
    assert sized.figures is not None


def test_another_fleet_meets_the_same_requests() -> None:
    spec = a_spec()
    assert spec.with_fleet(ASSUMED["l4"], 3).scene().arrivals == spec.scene().arrivals


def test_each_part_of_the_policy_can_be_taken_away() -> None:
    found = [figures for _, figures in run_all(ablation(a_spec(), {}), 1)]
    assert len(set(found)) > 3, "parts that change nothing are not worth having"


def test_a_setting_that_the_core_has_not_is_refused_by_name() -> None:
    with pytest.raises(SettingsInvalid, match="no setting 'load_wieght'"):
        core_settings({"load_wieght": 1.0})
    assert core_settings({"load_weight": 2.0}).placement.load_weight == 2.0
