"""What the core expects of a worker that runs what is up while it loads something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.scheduler.core.commands import SendAssign, SendCancel
from quickthaw.scheduler.core.decisions import Candidate
from quickthaw.scheduler.core.model import (
    AttemptId,
    Component,
    Digest,
    ModelSpec,
    RequestId,
    WorkerId,
)
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.core.worker import Held, Worker, WorkerClass
from support.core_builders import Scenario, a_job, a_model, a_worker, of_kind, only, resident

PATIENT = CoreSettings(lease_ms=10_000_000)
BASE = Component(Digest("base"), 1 << 30)


def a_busy_worker(*held: Held, concurrency: int = 1) -> Worker:
    kind = WorkerClass("h100", 1, 1 << 40)
    worker = Worker(a_worker(concurrency=concurrency), kind, 16, 0)
    worker.held = {AttemptId(f"a{number}"): each for number, each in enumerate(held)}
    worker.replan()
    return worker


def running(end_ms: int) -> Held:
    held = Held(a_model("running"), (), end_ms)
    held.running = True
    return held


def waiting(name: str, end_ms: int, run_ms: int, loaded_ms: int = 0) -> Held:
    model = a_model(name)
    brings = model.sizes if loaded_ms else ()
    return Held(model, (), end_ms, expected_run_ms=run_ms, loaded_ms=loaded_ms, brings=brings)


def test_what_is_up_could_begin_while_others_load() -> None:
    worker = a_busy_worker(running(2_000), waiting("cold", 12_000, 3_000, loaded_ms=9_000))
    assert (worker.warm_ms, worker.available_ms) == (2_000, 12_000)
    assert worker.overtaken_by(a_model("other"))
    assert not worker.overtaken_by(a_model("cold")), "that is on its way"


def test_what_is_up_waits_for_who_is_loaded_before_it_could_begin() -> None:
    worker = a_busy_worker(running(2_000), waiting("cold", 5_000, 3_000, loaded_ms=1_500))
    assert worker.warm_ms == worker.available_ms == 5_000


def test_one_after_the_other_overtakes() -> None:
    cold, first = waiting("cold", 12_000, 3_000, loaded_ms=9_000), waiting("first", 6_000, 4_000)
    worker = a_busy_worker(running(2_000), cold, first)
    assert worker.begins_ms(first) == 2_000
    assert worker.begins_ms(cold) == 9_000
    assert worker.warm_ms == 6_000


def test_what_is_overtaken_is_expected_to_begin_when_that_run_has_ended() -> None:
    worker = a_busy_worker(running(2_000), waiting("cold", 6_000, 3_000, loaded_ms=3_000))
    worker.put_off(waiting("warm", 2_000 + 7_000, 7_000))
    (cold,) = [held for held in worker.held.values() if held.loaded_ms]
    assert cold.expected_end_ms == 2_000 + 7_000 + 3_000


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 20), st.booleans()), max_size=6),
    st.integers(0, 30),
    st.integers(1, 3),
)
def test_what_is_up_begins_no_later_than_in_turn_and_never_before_a_place_is_free(
    attempts: list[tuple[int, int, bool]], runs_until_ms: int, concurrency: int
) -> None:
    held, loaded_ms = [running(runs_until_ms)], 0
    end_ms = runs_until_ms
    for number, (load_ms, run_ms, up) in enumerate(attempts):
        loaded_ms = loaded_ms if up else loaded_ms + load_ms
        end_ms = max(end_ms, loaded_ms) + run_ms
        held.append(waiting(f"m{number}", end_ms, run_ms, 0 if up else loaded_ms))
    worker = a_busy_worker(*held, concurrency=concurrency)
    assert worker.warm_ms <= worker.available_ms
    if concurrency == 1:
        assert worker.warm_ms >= runs_until_ms
        for each in held[1:]:
            assert worker.begins_ms(each) >= max(runs_until_ms, each.loaded_ms)
        begins = [worker.begins_ms(each) for each in held[1:]]
        assert len(set(begins)) == len(begins), "one at a time"


# ---- through the machine -------------------------------------------------------------------------


def loading_beside_a_run() -> tuple[Scenario, ModelSpec, SendAssign]:
    """`w1` runs one request for `m` and loads another model; the first Assign."""
    scenario, model = Scenario(PATIENT, queue_ahead=3), a_model("m")
    scenario.attach(a_worker("w1"), *resident(model))
    first = only(scenario.submit(a_job("running", model, work_units=0.1)), SendAssign)
    scenario.run(first)
    only(scenario.submit(a_job("cold", a_model("cold", gib=16))), SendAssign)
    return scenario, model, first


def chosen(scenario: Scenario, request_id: str) -> Candidate:
    return scenario.machine.explain(RequestId(request_id))[-1].candidates[0]


def test_a_warm_request_is_not_expected_to_wait_for_the_load_before_it() -> None:
    scenario, model, _first = loading_beside_a_run()
    assign = only(scenario.submit(a_job("warm", model)), SendAssign)
    warm, cold = chosen(scenario, "warm"), chosen(scenario, "cold")
    assert warm.drain_seconds < cold.load_seconds
    told = scenario.machine.request(assign.job.request_id)
    assert told is not None
    assert told.attempt is not None
    assert told.attempt.placement.endswith("runs while others load")
    scenario.close()


def test_a_request_for_what_another_brings_waits_for_that_load() -> None:
    scenario, _model, _first = loading_beside_a_run()
    only(scenario.submit(a_job("same", a_model("cold", gib=16))), SendAssign)
    same, cold = chosen(scenario, "same"), chosen(scenario, "cold")
    assert same.load_seconds == 0
    assert same.drain_seconds >= cold.load_seconds
    worker = scenario.machine.worker(WorkerId("w1"))
    assert worker is not None
    begins = [worker.begins_ms(held) for held in worker.held.values() if not held.running]
    assert min(begins) >= cold.load_seconds * 1000
    scenario.close()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_who_overtakes_a_load_moves_only_for_the_run_before_it(elsewhere: bool) -> None:
    """The load that it overtakes is nothing it waits for."""
    scenario, model, _first = loading_beside_a_run()
    only(scenario.submit(a_job("warm", model)), SendAssign)
    if elsewhere:
        scenario.attach(a_worker("w2"), *resident(model))
    asked = of_kind(scenario.wait(60_000), SendCancel)
    assert [each.attempt_id for each in asked if each.attempt_id.startswith("warm")] == (
        ["warm.1"] if elsewhere else []
    )
    scenario.close()
