"""Who goes before whom: order, look-ahead, bypass, collation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quickthaw.scheduler.core.commands import Command, JournalEnd, SendAssign
from quickthaw.scheduler.core.events import (
    CordonRequested,
    RequestJournalled,
    UncordonRequested,
    WorkerHeartbeat,
)
from quickthaw.scheduler.core.model import ModelSpec, Priority, RequestId, WorkerId
from quickthaw.scheduler.core.settings import CoreSettings
from support.core_builders import (
    Scenario,
    a_job,
    a_model,
    a_worker,
    of_kind,
    only,
    resident,
)

W1 = WorkerId("w1")


def assigned(commands: list[Command]) -> list[str]:
    return [command.job.request_id for command in of_kind(commands, SendAssign)]


def drain(scenario: Scenario, running: list[SendAssign]) -> list[str]:
    """Finishes what runs, oldest first, until nothing does; the order of the requests."""
    order = []
    while running:
        assign = running.pop(0)
        order.append(str(assign.job.request_id))
        scenario.feed(WorkerHeartbeat(assign.worker_id, 1))
        running += of_kind(scenario.finish(assign), SendAssign)
    return order


def test_priority_goes_first_inside_a_tenant(scenario: Scenario) -> None:
    for number, priority in enumerate((Priority.LOW, Priority.NORMAL, Priority.HIGH)):
        scenario.submit(a_job(f"req_{number}", priority=priority, submitted_ms=number))
    running = of_kind(scenario.attach(a_worker()), SendAssign)
    assert drain(scenario, running) == ["req_2", "req_1", "req_0"]


def test_the_next_input_of_a_session_that_holds_a_worker_goes_before_all_that_wait(
    scenario: Scenario,
) -> None:
    for number in range(3):
        scenario.submit(a_job(f"req_{number}", priority=Priority.HIGH, submitted_ms=number))
    scenario.submit(replace(a_job("req_held", tenant="other", submitted_ms=9), ahead=True))
    running = of_kind(scenario.attach(a_worker()), SendAssign)
    assert drain(scenario, running)[0] == "req_held"


def test_going_ahead_is_charged_like_any_other_run(scenario: Scenario) -> None:
    for number in range(3):
        scenario.submit(replace(a_job(f"ahead_{number}", tenant="session"), ahead=True))
    for number in range(3):
        scenario.submit(a_job(f"session_{number}", tenant="session"))
        scenario.submit(a_job(f"other_{number}", tenant="other"))
    running = of_kind(scenario.attach(a_worker()), SendAssign)
    order = drain(scenario, running)
    assert set(order[:3]) == {"ahead_0", "ahead_1", "ahead_2"}
    assert set(order[3:6]) == {"other_0", "other_1", "other_2"}


def test_a_low_priority_that_waited_long_enough_goes_before_a_fresh_high_one(
    scenario: Scenario,
) -> None:
    head_start_ms = scenario.settings.priority_head_start_ms
    scenario.submit(a_job("req_old", priority=Priority.LOW, submitted_ms=0))
    late_ms = 2 * head_start_ms + 1
    scenario.submit(a_job("req_new", priority=Priority.HIGH, submitted_ms=late_ms))
    running = of_kind(scenario.attach(a_worker()), SendAssign)
    assert drain(scenario, running) == ["req_old", "req_new"]


def test_a_retried_request_has_its_old_place_again(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    for number in range(4):
        scenario.submit(a_job(f"req_{number}", submitted_ms=number))
    running = of_kind(scenario.attach(a_worker(incarnation="second")), SendAssign)
    assert [assign.job.request_id for assign in running] == ["req_0", "req_1"]


def test_tenants_take_turns_whatever_they_queued_before(scenario: Scenario) -> None:
    for number in range(4):
        scenario.submit(a_job(f"req_a{number}", tenant="a"))
    for number in range(4):
        scenario.submit(a_job(f"req_b{number}", tenant="b"))
    order = drain(scenario, of_kind(scenario.attach(a_worker()), SendAssign))
    assert [name[4] for name in order] == list("abababab")


def test_a_heavier_tenant_gets_its_share() -> None:
    scenario = Scenario(CoreSettings(tenant_weights={"a": 3.0}))
    for tenant in "ab":
        for number in range(12):
            scenario.submit(a_job(f"req_{tenant}{number}", tenant=tenant))
    order = drain(scenario, of_kind(scenario.attach(a_worker()), SendAssign))
    assert "".join(name[4] for name in order)[:8].count("a") == 6
    scenario.close()


def test_a_head_that_fits_nowhere_now_does_not_block_the_others(scenario: Scenario) -> None:
    huge, small = a_model("huge", gib=30), a_model("small", gib=2)
    blocker = a_model("blocker", gib=25)
    scenario.attach(a_worker(), *resident(blocker))
    scenario.submit(a_job("req_blocker", blocker))
    assert assigned(scenario.submit(a_job("req_huge", huge))) == []
    assert assigned(scenario.submit(a_job("req_small", small))) == ["req_small"]


def test_a_model_that_no_worker_could_ever_hold_blocks_nobody() -> None:
    scenario = Scenario(CoreSettings(look_ahead=2))
    for number in range(8):
        scenario.submit(a_job(f"req_{number}", a_model("huge", gib=300)))
    scenario.attach(a_worker())
    assert assigned(scenario.submit(a_job("req_small"))) == ["req_small"]
    scenario.close()


def test_a_head_that_was_passed_over_too_often_gets_the_next_worker() -> None:
    """Two places; the big one needs the worker for itself, small ones keep coming."""
    settings = CoreSettings(bypass_max=5, lease_ms=10**9)
    scenario = Scenario(settings)
    small, big = a_model("small", gib=12, working_gib=1), a_model("big", gib=38, working_gib=1)
    scenario.attach(a_worker(), *resident(small))
    running = []
    running += of_kind(scenario.submit(a_job("req_s0", small)), SendAssign)
    running += of_kind(scenario.submit(a_job("req_s1", small)), SendAssign)
    scenario.submit(a_job("req_big", big))
    placed_before = 0
    for number in range(2, 40):
        scenario.submit(a_job(f"req_s{number}", small))
        new = of_kind(scenario.finish(running.pop(0)), SendAssign)
        running += new
        if "req_big" in [assign.job.request_id for assign in new]:
            break
        placed_before += len(new)
    else:
        raise AssertionError("the big one starves")
    assert placed_before <= settings.bypass_max
    worker = scenario.machine.worker(W1)
    assert worker is not None
    assert worker.reserved_for is None
    scenario.close()


def test_a_reservation_ends_with_the_request_that_it_was_for() -> None:
    scenario = Scenario(CoreSettings(bypass_max=1, lease_ms=10**9))
    small, big = a_model("small", gib=12), a_model("big", gib=38)
    scenario.attach(a_worker(), *resident(small))
    running = of_kind(scenario.submit(a_job("req_s0", small)), SendAssign)
    running += of_kind(scenario.submit(a_job("req_s1", small)), SendAssign)
    scenario.submit(a_job("req_big", big, deadline_ms=500_000))
    for number in range(2, 5):
        scenario.submit(a_job(f"req_s{number}", small))
    for _ in range(2):
        running += of_kind(scenario.finish(running.pop(0)), SendAssign)
    worker = scenario.machine.worker(W1)
    assert worker is not None
    assert worker.reserved_for == "req_big"
    commands = scenario.wait(500_000)
    assert only(commands, JournalEnd).job.request_id == "req_big"
    assert worker.reserved_for is None
    assert assigned(commands), "the small ones go on"
    scenario.close()


def three_models() -> list[ModelSpec]:
    return [a_model(name, gib=15) for name in "klm"]


def test_requests_for_resident_models_go_before_one_that_would_swap(scenario: Scenario) -> None:
    """k waits on a worker that is full; the free place on the other goes to its own model."""
    k, m, _ = three_models()
    scenario.attach(a_worker("w1", free_gib=17), *resident(k))
    scenario.attach(a_worker("w2", free_gib=17), *resident(m))
    first = [a_job(f"req_k{n}", k) for n in range(2)] + [a_job(f"req_m{n}", m) for n in range(2)]
    running = [only(scenario.submit(job), SendAssign) for job in first]
    assert [assign.worker_id for assign in running] == ["w1", "w1", "w2", "w2"]
    scenario.submit(a_job("req_k2", k))
    scenario.submit(a_job("req_m2", m))
    assert assigned(scenario.finish(running[2])) == ["req_m2"]
    assert assigned(scenario.finish(running[0])) == ["req_k2"]


def busy_with_k_and_m(scenario: Scenario) -> list[SendAssign]:
    """k is full at w1 for long and quick to load; m is full at w2. The first to end is w2's."""
    k, m = a_model("k", gib=0.1), a_model("m", gib=16)
    scenario.attach(a_worker("w1", free_gib=18), *resident(k))
    scenario.attach(a_worker("w2", free_gib=18), *resident(m))
    running = [
        only(scenario.submit(a_job(f"req_{n}", model, work_units=100.0)), SendAssign)
        for n, model in enumerate((k, m, k, m))
    ]
    assert [assign.worker_id for assign in running] == ["w1", "w2", "w1", "w2"]
    assert assigned(scenario.submit(a_job("req_k2", k, work_units=100.0))) == []
    return running[1:2]


def test_no_worker_idles_for_the_sake_of_residency(scenario: Scenario) -> None:
    """With nobody behind who is warm, a short load is better than an idle place."""
    running = busy_with_k_and_m(scenario)
    commands = scenario.finish(running[0])
    assert assigned(commands) == ["req_k2"]
    assert only(commands, SendAssign).worker_id == "w2"


def test_a_load_gives_way_to_a_later_request_that_needs_none(scenario: Scenario) -> None:
    running = busy_with_k_and_m(scenario)
    scenario.submit(a_job("req_m2", a_model("m", gib=16), work_units=100.0))
    assert assigned(scenario.finish(running[0])) == ["req_m2"]


def test_a_warm_request_far_back_goes_before_many_that_would_load() -> None:
    scenario = Scenario(CoreSettings(lease_ms=10**9, bypass_max=2))
    warm = a_model("warm", gib=30)
    scenario.attach(a_worker(), *resident(warm))
    running = [
        only(scenario.submit(a_job(f"req_{number}", warm)), SendAssign) for number in range(2)
    ]
    for number in range(100):
        scenario.submit(a_job(f"req_cold{number:02}", a_model(f"cold{number}", gib=30)))
    for number in range(3):
        scenario.submit(a_job(f"req_warm{number}", warm))
    order = drain(scenario, running)
    # It gives way twice, and then it is its turn.
    assert order[2:5] == ["req_warm0", "req_warm1", "req_cold00"]
    scenario.close()


def test_a_tenant_does_not_get_ahead_of_others_by_being_warm() -> None:
    settings = CoreSettings(lease_ms=10**9, bypass_max=1_000, collation_lead_ms=1_000.0)
    scenario = Scenario(settings)
    warm, cold = a_model("warm", gib=15), a_model("cold", gib=15)
    scenario.attach(a_worker(), *resident(warm))
    running = of_kind(scenario.submit(a_job("req_first", warm, tenant="greedy")), SendAssign)
    running += of_kind(scenario.submit(a_job("req_second", warm, tenant="greedy")), SendAssign)
    scenario.submit(a_job("req_cold", cold, tenant="patient"))
    for number in range(50):
        scenario.submit(a_job(f"req_warm{number:02}", warm, tenant="greedy"))
    order = []
    while running:
        assign = running.pop(0)
        order.append(str(assign.job.request_id))
        running += of_kind(scenario.finish(assign, metered_ms=300), SendAssign)
    # Each run is 300 GPU-milliseconds: four of them are more than a second ahead.
    assert 2 < order.index("req_cold") <= 8
    scenario.close()


def test_positions_are_exact_for_a_small_queue(scenario: Scenario) -> None:
    for tenant, number in [("a", 0), ("a", 1), ("a", 2), ("b", 0)]:
        scenario.submit(a_job(f"req_{tenant}{number}", tenant=tenant))
    positions = {
        name: scenario.machine.queue_position(RequestId(name))
        for name in ("req_a0", "req_b0", "req_a1", "req_a2", "req_nobody")
    }
    assert positions == {"req_a0": 0, "req_b0": 1, "req_a1": 2, "req_a2": 3, "req_nobody": None}
    order = drain(scenario, of_kind(scenario.attach(a_worker()), SendAssign))
    assert order == ["req_a0", "req_b0", "req_a1", "req_a2"]


def test_positions_far_back_are_estimated_in_bounded_work() -> None:
    scenario = Scenario(CoreSettings(queue_position_exact_max=5))
    for number in range(200):
        scenario.machine.handle(
            RequestJournalled(a_job(f"req_{number:03}", tenant="ab"[number % 2])), 1_000
        )
    position = scenario.machine.queue_position(RequestId("req_150"))
    assert position is not None
    assert abs(position - 150) <= 1, "off by at most one for each other tenant"


@pytest.mark.parametrize("change", ["finish", "uncordon", "attach"])
def test_a_request_that_waits_is_taken_by_whichever_worker_changes(change: str) -> None:
    """It is not tried on every worker again at each event, so each kind of change must count."""
    scenario = Scenario(CoreSettings(lease_ms=10**9))
    model, other = a_model("mine", gib=30), a_model("other", gib=30)
    scenario.attach(a_worker("w1"), *resident(other))
    scenario.attach(a_worker("w2"))
    scenario.feed(CordonRequested(WorkerId("w2")))
    running = of_kind(scenario.submit(a_job("req_0", other)), SendAssign)
    for number in range(3):
        # Others come in between, and each time it is tried again.
        assert not assigned(scenario.submit(a_job(f"req_mine{number}", model)))
    match change:
        case "finish":
            commands = scenario.finish(running.pop())
        case "uncordon":
            commands = scenario.feed(UncordonRequested(WorkerId("w2")))
        case _:
            commands = scenario.attach(a_worker("w3"))
    assert assigned(commands)[0] == "req_mine0"
    scenario.close()
