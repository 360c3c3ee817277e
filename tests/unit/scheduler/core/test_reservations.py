"""Dedicated endpoints: workers of their own, refused to all others, and billed by the second."""

from __future__ import annotations

from dataclasses import replace

from quickthaw.scheduler.core.commands import JournalReservation, SendAssign, TellEnd
from quickthaw.scheduler.core.events import (
    AttemptFinished,
    EndpointChanged,
    WorkerDisconnected,
    WorkerGoodbye,
    WorkerHeartbeat,
)
from quickthaw.scheduler.core.model import (
    EndpointSettings,
    ModelSpec,
    Outcome,
    RequestId,
    Visibility,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.settings import CoreSettings, SupplyPolicy
from support.core_builders import Scenario, a_job, a_model, a_worker, of_kind, only

SECOND = 1_000
SETTINGS = CoreSettings(
    lease_ms=3_600_000,
    reservation_span_ms=60 * SECOND,
    supply=SupplyPolicy(interval_ms=5 * SECOND),
)
MINE, OTHER = a_model("mine"), a_model("other")


def scene(*workers: WorkerSpec) -> Scenario:
    scenario = Scenario(SETTINGS)
    for worker in workers:
        scenario.attach(worker)
    return scenario


def dedicate(
    scenario: Scenario, count: int, model: ModelSpec = MINE, **labels: str
) -> list[object]:
    settings = EndpointSettings(
        visibility=Visibility.DEDICATED,
        owner_tenant="acme",
        reserved_workers=count,
        worker_labels=labels,
    )
    return list(scenario.feed(EndpointChanged(model.id, settings, model)))


def reserved(scenario: Scenario, model: ModelSpec = MINE) -> list[str]:
    return sorted(scenario.machine.endpoint_now(model).reserved)


def test_a_reserved_worker_takes_its_endpoints_requests_and_no_others() -> None:
    scenario = scene(a_worker("w1"))
    dedicate(scenario, 1)
    assert reserved(scenario) == ["w1"]
    scenario.submit(a_job("req_other", OTHER))
    refusals = scenario.machine.explain(RequestId("req_other"))[-1].refusals
    assert [(r.worker_id, r.reason) for r in refusals] == [("w1", "dedicated")]
    assert only(scenario.submit(a_job("req_mine", MINE)), SendAssign).worker_id == "w1"


def test_what_was_lost_on_its_endpoints_only_worker_goes_there_again() -> None:
    """Another worker is ready, but may not run it: it would wait for ever."""
    scenario = scene(a_worker("w1"), a_worker("w2"))
    dedicate(scenario, 1)
    first = only(scenario.submit(a_job("req_mine", MINE)), SendAssign)
    commands = scenario.attach(a_worker(first.worker_id, incarnation="second"))
    assert [each.worker_id for each in of_kind(commands, SendAssign)] == [first.worker_id]


def test_a_dedicated_endpoint_uses_no_worker_that_everybody_shares() -> None:
    scenario = scene(a_worker("w1"), a_worker("w2"))
    dedicate(scenario, 1)
    (own,) = reserved(scenario)
    first = only(scenario.submit(a_job("req_1", MINE)), SendAssign)
    second = only(scenario.submit(a_job("req_2", MINE)), SendAssign)
    assert {first.worker_id, second.worker_id} == {own}
    assert not of_kind(scenario.submit(a_job("req_3", MINE)), SendAssign)
    shared = only(scenario.submit(a_job("req_4", OTHER)), SendAssign)
    assert shared.worker_id != own


def test_only_workers_with_the_labels_are_reserved() -> None:
    plain, fast = a_worker("w1"), replace(a_worker("w2"), labels={"zone": "b"})
    scenario = scene(plain, fast)
    dedicate(scenario, 2, zone="b")
    assert reserved(scenario) == ["w2"]


def test_a_worker_that_comes_later_is_reserved_when_it_says_hello() -> None:
    scenario = scene()
    dedicate(scenario, 1)
    scenario.submit(a_job("req_1", MINE))
    assert only(scenario.attach(a_worker("w1")), SendAssign).worker_id == "w1"
    assert reserved(scenario) == ["w1"]


def test_what_others_had_begun_there_ends_there() -> None:
    scenario = scene(a_worker("w1"))
    assign = only(scenario.submit(a_job("req_other", OTHER)), SendAssign)
    dedicate(scenario, 1)
    scenario.run(assign)
    assert of_kind(scenario.finish(assign), TellEnd)


def test_time_is_billed_to_the_owner_by_spans_that_leave_nothing_out() -> None:
    scenario = scene(a_worker("w1"))
    began_ms = scenario.now_ms
    dedicate(scenario, 1)
    lines = []
    for _ in range(40):
        lines += of_kind(scenario.wait(5 * SECOND), JournalReservation)
    lines += of_kind(scenario.feed(EndpointChanged(MINE.id, None)), JournalReservation)
    assert len(lines) == 4
    assert sum(line.ledger.billed_ms for line in lines) == scenario.now_ms - began_ms
    assert {line.ledger.tenant for line in lines} == {"acme"}
    assert len({line.ledger.attempt_id for line in lines}) == len(lines)
    for line in lines:
        rate = line.ledger.rate_nanodollars_per_second
        assert line.ledger.price_nanodollars == line.ledger.billed_ms * rate // 1000
    assert reserved(scenario) == []


def test_a_worker_is_not_billed_after_its_last_word() -> None:
    scenario = scene(a_worker("w1"))
    dedicate(scenario, 1)
    scenario.feed(WorkerHeartbeat(WorkerId("w1"), 1), after_ms=10 * SECOND)
    scenario.feed(WorkerDisconnected(WorkerId("w1")), after_ms=20 * SECOND)
    line = only(scenario.feed(WorkerGoodbye(WorkerId("w1"))), JournalReservation).ledger
    assert line.billed_ms == 10 * SECOND


def test_a_worker_that_comes_back_anew_is_still_reserved_and_its_absence_is_free() -> None:
    scenario = scene(a_worker("w1"), a_worker("w2"))
    dedicate(scenario, 1)
    (own,) = reserved(scenario)
    scenario.feed(WorkerHeartbeat(WorkerId(own), 1), after_ms=4 * SECOND)
    commands = scenario.feed(WorkerDisconnected(WorkerId(own)))
    scenario.now_ms += 10 * SECOND
    commands = scenario.attach(a_worker(own, incarnation="second"))
    assert only(commands, JournalReservation).ledger.billed_ms == 4 * SECOND
    assert reserved(scenario) == [own]


def test_requests_on_a_reserved_worker_cost_nothing_more() -> None:
    scenario = scene(a_worker("w1"))
    dedicate(scenario, 1)
    assign = only(scenario.submit(a_job("req_1", MINE)), SendAssign)
    scenario.run(assign)
    commands = scenario.machine.handle(
        AttemptFinished(
            assign.worker_id, assign.attempt_id, RequestId("req_1"), Outcome.SUCCEEDED, 500
        ),
        scenario.now_ms,
    )
    receipt = only(commands, TellEnd).end.receipt
    assert (receipt.price_nanodollars, receipt.waiver) == (0, "reserved")


def test_an_endpoint_that_is_shared_again_gives_its_workers_back() -> None:
    scenario = scene(a_worker("w1"))
    dedicate(scenario, 1)
    scenario.submit(a_job("req_other", OTHER))
    commands = scenario.feed(EndpointChanged(MINE.id, EndpointSettings(), MINE))
    assert only(commands, SendAssign).worker_id == "w1"
