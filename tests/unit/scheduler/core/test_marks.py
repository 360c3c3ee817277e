"""What operators ask of workers: cordons, drains, and how long each is remembered."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.commands import (
    JournalMark,
    SendAssign,
    SendDrain,
)
from quickthaw.scheduler.core.events import (
    CordonRequested,
    DrainRequested,
    MarkRecovered,
    UncordonRequested,
    WorkerGoodbye,
)
from quickthaw.scheduler.core.model import (
    WorkerId,
    WorkerMark,
    WorkerState,
)
from quickthaw.scheduler.core.settings import CoreSettings
from support.core_builders import (
    Scenario,
    a_job,
    a_worker,
    of_kind,
    only,
)

W1 = WorkerId("w1")


def state_of(scenario: Scenario) -> WorkerState:
    worker = scenario.machine.worker(W1)
    assert worker is not None
    return worker.state


def test_a_cordoned_worker_gets_nothing_new_until_it_is_uncordoned(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    assert scenario.feed(CordonRequested(W1)) == [JournalMark(WorkerMark(W1, cordoned=True))]
    assert scenario.feed(CordonRequested(W1)) == [], "it is known already"
    assert state_of(scenario) is WorkerState.CORDONED
    assert of_kind(scenario.submit(a_job()), SendAssign) == []
    assert only(scenario.feed(UncordonRequested(W1)), SendAssign).worker_id == "w1"


def test_a_cordon_outlasts_a_restart_of_the_worker(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.feed(CordonRequested(W1))
    scenario.attach(a_worker(incarnation="second"))
    assert state_of(scenario) is WorkerState.CORDONED


def test_a_cordon_outlasts_a_worker_that_was_away_too_long_or_left(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.feed(CordonRequested(W1))
    scenario.wait(15_000)
    assert list(scenario.machine.workers()) == []
    scenario.attach(a_worker())
    scenario.feed(DrainRequested(W1))  # as a worker does that was sent SIGTERM
    scenario.feed(WorkerGoodbye(W1))
    scenario.attach(a_worker(incarnation="second"))
    assert state_of(scenario) is WorkerState.CORDONED


def test_what_an_earlier_scheduler_was_asked_of_a_worker_still_holds(scenario: Scenario) -> None:
    scenario.feed(MarkRecovered(WorkerMark(W1, cordoned=True)))
    drain = WorkerMark(WorkerId("w2"), draining=True, stop=True, incarnation="first")
    scenario.feed(MarkRecovered(drain))
    scenario.attach(a_worker())
    assert state_of(scenario) is WorkerState.CORDONED
    told = scenario.attach(a_worker("w2"))
    assert only(told, SendDrain) == SendDrain(WorkerId("w2"), stop=True)
    assert of_kind(scenario.submit(a_job()), SendAssign) == []


def test_a_drain_is_of_one_process_and_is_forgotten_with_it(scenario: Scenario) -> None:
    drain = WorkerMark(W1, cordoned=True, draining=True, stop=True, incarnation="earlier")
    scenario.feed(MarkRecovered(drain))
    commands = scenario.attach(a_worker())
    assert only(commands, JournalMark).mark == WorkerMark(W1, cordoned=True)
    assert state_of(scenario) is WorkerState.CORDONED


def test_a_worker_that_stopped_as_told_leaves_no_mark(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.feed(CordonRequested(W1))
    scenario.feed(DrainRequested(W1, stop=True))
    assert only(scenario.feed(WorkerGoodbye(W1)), JournalMark).mark.empty
    scenario.attach(a_worker(incarnation="second"))
    assert state_of(scenario) is WorkerState.READY


def test_marks_are_bounded_and_those_of_workers_that_are_here_stay() -> None:
    scenario = Scenario(CoreSettings(worker_marks_max=2))
    scenario.attach(a_worker())
    scenario.feed(CordonRequested(W1))
    for name in ("w2", "w3"):
        scenario.attach(a_worker(name))
        commands = scenario.feed(CordonRequested(WorkerId(name)))
        scenario.feed(WorkerGoodbye(WorkerId(name)))
    forgotten = [each.mark for each in of_kind(commands, JournalMark) if each.mark.empty]
    assert forgotten == [WorkerMark(WorkerId("w2"))]
    scenario.attach(a_worker(incarnation="second"))
    assert state_of(scenario) is WorkerState.CORDONED


def test_a_drained_worker_is_told_to_stop_when_nothing_is_left_to_run(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    assign = only(scenario.submit(a_job()), SendAssign)
    assert of_kind(scenario.feed(DrainRequested(W1, stop=True)), SendDrain) == []
    assert state_of(scenario) is WorkerState.DRAINING
    assert of_kind(scenario.submit(a_job("req_2")), SendAssign) == []
    assert only(scenario.finish(assign), SendDrain) == SendDrain(W1, stop=True)
    scenario.feed(WorkerGoodbye(W1))
    assert list(scenario.machine.workers()) == []


def test_a_drain_can_be_undone_before_the_worker_stops(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    assign = only(scenario.submit(a_job()), SendAssign)
    scenario.feed(DrainRequested(W1, stop=True))
    scenario.feed(UncordonRequested(W1))
    assert of_kind(scenario.finish(assign), SendDrain) == []
    assert of_kind(scenario.submit(a_job("req_2")), SendAssign)


@pytest.mark.parametrize("event", [CordonRequested(W1), UncordonRequested(W1), DrainRequested(W1)])
def test_orders_for_a_worker_that_is_not_there_are_nothing(
    scenario: Scenario, event: CordonRequested | UncordonRequested | DrainRequested
) -> None:
    assert scenario.feed(event) == []
