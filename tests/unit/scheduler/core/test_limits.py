"""Limits that queue: what may not start waits, and costs the others nothing."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.commands import Command, SendAssign
from quickthaw.scheduler.core.events import (
    CancelRequested,
    EndpointChanged,
    RequestRecovered,
    WorkerHeartbeat,
)
from quickthaw.scheduler.core.model import (
    AttemptRecord,
    EndpointSettings,
    ModelSpec,
    RequestId,
    WorkerId,
    attempt_id_of,
)
from quickthaw.scheduler.core.settings import CoreSettings
from support.core_builders import Scenario, a_job, a_model, a_worker, of_kind, only, resident

M = a_model("m", gib=2)
OTHER = a_model("other", gib=2)


def a_fleet(
    settings: CoreSettings, workers: int = 6, models: tuple[ModelSpec, ...] = (M,)
) -> Scenario:
    scenario = Scenario(settings)
    for number in range(workers):
        holding = [line for model in models for line in resident(model)]
        scenario.attach(a_worker(f"w{number}", concurrency=2), *holding)
    return scenario


def assigned(commands: list[Command]) -> list[str]:
    return [command.job.request_id for command in of_kind(commands, SendAssign)]


def endpoint_limit(scenario: Scenario, model: ModelSpec, limit: int) -> list[Command]:
    settings = EndpointSettings(concurrency_max=limit)
    return scenario.feed(EndpointChanged(model.id, settings))


def why(scenario: Scenario, request_id: str) -> list[tuple[str, str, str]]:
    decision = scenario.machine.explain(RequestId(request_id))[-1]
    assert decision.chosen_worker_id is None
    return [(each.worker_id, each.reason, each.detail) for each in decision.refusals]


def test_a_tenant_beyond_its_limit_queues_and_is_told_why() -> None:
    scenario = a_fleet(CoreSettings(tenant_concurrency_max=4))
    running = [only(scenario.submit(a_job(f"req_{n}", M)), SendAssign) for n in range(4)]
    assert assigned(scenario.submit(a_job("req_4", M))) == []
    assert why(scenario, "req_4") == [("", "tenant_limit", "tenant limit 4 reached")]
    assert assigned(scenario.finish(running[0])) == ["req_4"]
    scenario.close()


def test_a_tenant_of_its_own_limit_has_that() -> None:
    limits = CoreSettings(tenant_concurrency_max=1, tenant_concurrency={"big": 3, "free": 0})
    scenario = a_fleet(limits)
    for tenant, expected in (("acme", 1), ("big", 3), ("free", 5)):
        placed = [
            name
            for number in range(5)
            for name in assigned(scenario.submit(a_job(f"req_{tenant}{number}", M, tenant=tenant)))
        ]
        assert len(placed) == expected
    scenario.close()


def test_an_endpoint_beyond_its_limit_queues_for_all_tenants_in_the_fair_order() -> None:
    scenario = a_fleet(CoreSettings())
    endpoint_limit(scenario, M, 2)
    running = [only(scenario.submit(a_job(f"req_{n}", M, tenant="a")), SendAssign) for n in "01"]
    for name, tenant in (("req_a2", "a"), ("req_a3", "a"), ("req_b0", "b")):
        assert assigned(scenario.submit(a_job(name, M, tenant=tenant))) == []
    assert why(scenario, "req_b0") == [("", "endpoint_limit", "endpoint limit 2 reached")]
    order = []
    while running:
        new = of_kind(scenario.finish(running.pop(0)), SendAssign)
        order += [assign.job.request_id for assign in new]
        running += new
    assert order == ["req_b0", "req_a2", "req_a3"]
    scenario.close()


def test_what_a_limit_holds_back_costs_the_others_no_look() -> None:
    """A thousand that may not start are before it; the pass looks at few requests all the same."""
    settings = CoreSettings(tenant_concurrency_max=1, look_ahead=1, look_ahead_visits=4)
    scenario = a_fleet(settings, models=(M, OTHER))
    endpoint_limit(scenario, OTHER, 1)
    scenario.submit(a_job("req_a", M, tenant="a"))
    scenario.submit(a_job("req_b", OTHER, tenant="b"))
    for number in range(500):
        scenario.submit(a_job(f"req_a{number}", M, tenant="a"))
        scenario.submit(a_job(f"req_c{number}", OTHER, tenant=f"c{number}"))
    assert assigned(scenario.submit(a_job("req_d", M, tenant="d"))) == ["req_d"]
    worker = scenario.machine.worker(WorkerId("w0"))
    assert worker is not None
    assert worker.reserved_for is None, "who is held back by a limit reserves nothing"


def test_one_that_was_kept_waiting_for_another_s_sake_goes_on_when_that_one_is_cancelled() -> None:
    """The place at the endpoint is offered to one, which no worker can take; it is cancelled."""
    scenario = Scenario(CoreSettings())
    first, second = a_worker("w0"), a_worker("w1")
    scenario.attach(first, *resident(M))
    endpoint_limit(scenario, M, 1)
    running = only(scenario.submit(a_job("req_0", M)), SendAssign)
    # A cap that the worker's price at p95 exceeds holds it back while the other could go.
    capped = a_job("req_1", M, work_units=100.0, price_cap_nanodollars=1)
    scenario.submit(capped)
    scenario.submit(a_job("req_2", M))
    assert assigned(scenario.finish(running)) == []
    assert assigned(scenario.feed(CancelRequested(RequestId("req_1")))) == ["req_2"]
    scenario.attach(second)
    scenario.close()


@pytest.mark.parametrize("to", [0, 3])
def test_a_limit_that_is_raised_lets_waiting_ones_go_at_once(to: int) -> None:
    scenario = a_fleet(CoreSettings())
    endpoint_limit(scenario, M, 1)
    for number in range(3):
        scenario.submit(a_job(f"req_{number}", M))
    assert assigned(endpoint_limit(scenario, M, to)) == ["req_1", "req_2"]
    scenario.close()


def test_attempts_of_an_earlier_scheduler_count() -> None:
    scenario = Scenario(CoreSettings(tenant_concurrency_max=1))
    job = a_job("req_0", M)
    record = AttemptRecord(
        attempt_id=attempt_id_of(job.request_id, 1),
        request_id=job.request_id,
        number=1,
        worker_id=WorkerId("w0"),
        incarnation="first",
        gpu_type="h100",
        rate_nanodollars_per_second=1,
        price_version="v",
        placed_ms=scenario.now_ms,
    )
    scenario.feed(RequestRecovered(job, 1, record))
    scenario.attach(a_worker("w9"), *resident(M))
    assert assigned(scenario.submit(a_job("req_1", M))) == []
    scenario.feed(WorkerHeartbeat(WorkerId("w9"), 1), after_ms=scenario.settings.lease_ms - 1)
    commands = scenario.wait(1)
    assert assigned(commands), "its lease has ended, and with it the attempt"
    scenario.close()
