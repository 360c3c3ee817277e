"""Requests that are alike go to a worker as one run, where it does that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quickthaw.scheduler.core.commands import Command, SendAssign
from quickthaw.scheduler.core.model import Job, WorkerId, WorkerSpec
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.work_units import batch_key
from support.core_builders import Scenario, a_job, a_model, a_worker, of_kind, only, resident

M = a_model("m", gib=4, working_gib=1)


def batching(worker_id: str = "w1", *, batch_max: int = 3, free_gib: float = 40) -> WorkerSpec:
    spec = a_worker(worker_id, free_gib=free_gib)
    return replace(spec, batch_max=batch_max, batch_families=frozenset({"sd"}))


def alike(name: str, key: str = "64x64", *, tenant: str = "acme") -> Job:
    return replace(a_job(name, M, tenant=tenant), batch_key=key)


def assigned(commands: list[Command]) -> list[str]:
    return [command.job.request_id for command in of_kind(commands, SendAssign)]


def busy(spec: WorkerSpec) -> tuple[Scenario, list[SendAssign]]:
    """One runs, one is next, and more wait."""
    scenario = Scenario(CoreSettings(lease_ms=10**9))
    scenario.attach(spec, *resident(M))
    running = [only(scenario.submit(alike(f"req_{n}")), SendAssign) for n in range(2)]
    scenario.run(running[0])
    for number in range(2, 7):
        scenario.submit(alike(f"req_{number}"))
    return scenario, running


def test_those_that_wait_alike_are_sent_together_when_a_place_is_free() -> None:
    scenario, running = busy(batching())
    assert assigned(scenario.finish(running[0])) == ["req_2", "req_3", "req_4"]
    placement = scenario.machine.explain(alike("req_3").request_id)[-1]
    assert placement.chosen_worker_id == "w1"
    worker = scenario.machine.worker(WorkerId("w1"))
    assert worker is not None
    assert (len(worker.held), worker.places) == (4, 2)


def test_a_worker_that_does_not_batch_gets_one_at_a_time() -> None:
    scenario, running = busy(batching(batch_max=1))
    assert assigned(scenario.finish(running[0])) == ["req_2"]
    scenario.close()


def test_another_input_or_another_family_does_not_run_along() -> None:
    scenario = Scenario(CoreSettings(lease_ms=10**9))
    scenario.attach(batching(), *resident(M))
    running = [only(scenario.submit(alike(f"req_{n}")), SendAssign) for n in range(2)]
    for name, key in (("req_a", "k"), ("req_b", "other"), ("req_c", ""), ("req_d", "k")):
        scenario.submit(alike(name, key))
    assert assigned(scenario.finish(running[0])) == ["req_a", "req_d"]


def test_a_batch_takes_no_more_memory_than_there_is() -> None:
    """Four GiB of weights and two runs of one GiB each: a third would not fit."""
    scenario, running = busy(batching(batch_max=8, free_gib=6))
    assert assigned(scenario.finish(running[0])) == ["req_2", "req_3"]
    worker = scenario.machine.worker(WorkerId("w1"))
    assert worker is not None
    assert worker.committed_bytes <= worker.spec.vram_bytes


def test_limits_hold_for_those_that_would_run_along() -> None:
    scenario = Scenario(CoreSettings(lease_ms=10**9, tenant_concurrency={"small": 1}))
    scenario.attach(batching(), *resident(M))
    running = [only(scenario.submit(alike(f"req_{n}")), SendAssign) for n in range(2)]
    scenario.run(running[0])
    scenario.submit(alike("req_2"))
    for number in range(3):
        scenario.submit(alike(f"req_s{number}", tenant="small"))
    together = assigned(scenario.finish(running[0]))
    assert len([name for name in together if name.startswith("req_s")]) == 1
    scenario.close()


def test_a_batch_is_expected_to_take_as_long_as_all_its_members() -> None:
    scenario, running = busy(batching())
    batch = of_kind(scenario.finish(running[0]), SendAssign)
    scenario.run(running[1])
    scenario.finish(running[1])
    for assign in batch:
        scenario.run(assign)
    worker = scenario.machine.worker(WorkerId("w1"))
    assert worker is not None
    ends = {held.expected_end_ms for held in worker.held.values() if held.running}
    assert len(ends) == 1
    share_ms = 100
    assert ends.pop() - scenario.now_ms == pytest.approx(3 * share_ms, abs=3)


def test_inputs_are_alike_if_they_differ_in_texts_and_seeds_only() -> None:
    one = {"prompt": "a", "seed": 1, "image_size": {"width": 64, "height": 64}, "num_images": 1}
    other = {**one, "prompt": "b", "seed": 2, "output_format": "png"}
    assert batch_key(one) == batch_key(dict(reversed(other.items()))) != ""
    assert batch_key({**one, "num_images": 2}) != batch_key(one)
    assert batch_key({"run_ms": 5}) == batch_key({**one, "image_url": "https://a/b.png"}) == ""
