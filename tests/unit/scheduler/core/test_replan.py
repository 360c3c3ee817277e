"""What waits behind a run that overstays moves, once its worker has let it go."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.commands import JournalEnd, SendAssign, SendCancel, TellEnd
from quickthaw.scheduler.core.events import CancelRequested
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import ModelSpec, Outcome, RequestId
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

PATIENT = CoreSettings(lease_ms=10_000_000)


def behind_a_run(
    settings: CoreSettings = PATIENT, queue_ahead: int = 1
) -> tuple[Scenario, ModelSpec, SendAssign]:
    """A worker that runs `long` and holds `next`, for which it has the model; the second Assign."""
    scenario, model = Scenario(settings, queue_ahead), a_model("m", gib=4)
    scenario.attach(a_worker("w1"), *resident(model))
    first = only(scenario.submit(a_job("long", model)), SendAssign)
    scenario.run(first)
    return scenario, model, only(scenario.submit(a_job("next", model)), SendAssign)


def test_a_request_behind_a_run_that_overstays_goes_where_it_begins_sooner() -> None:
    scenario, model, held = behind_a_run()
    scenario.attach(a_worker("w2"), *resident(model))
    asked = only(scenario.wait(60_000), SendCancel)
    assert (asked.worker_id, asked.attempt_id) == (held.worker_id, held.attempt_id)
    given_back = scenario.finish(held, metered_ms=0, outcome=Outcome.CANCELLED)
    again = only(given_back, SendAssign)
    assert (again.worker_id, again.number, again.job.request_id) == ("w2", 2, "next")
    ended = only(given_back, JournalEnd)
    assert ended.ledger is not None
    assert ended.ledger.price_nanodollars == 0
    assert not of_kind(given_back, TellEnd)
    scenario.run(again)
    assert only(scenario.finish(again), TellEnd).end.state is RequestState.SUCCEEDED
    scenario.close()


def test_until_its_worker_lets_go_it_is_nowhere_else() -> None:
    scenario, model, held = behind_a_run()
    scenario.attach(a_worker("w2"), *resident(model))
    assert only(scenario.wait(60_000), SendCancel).attempt_id == held.attempt_id
    view = scenario.machine.request(RequestId("next"))
    assert view is not None
    assert view.state is RequestState.PLACED
    # The worker got to it before it heard: it ends where it is, and its result counts.
    scenario.run(held)
    assert only(scenario.finish(held), TellEnd).worker_id == "w1"
    scenario.close()


def test_a_worker_that_does_not_answer_is_asked_again() -> None:
    scenario, model, held = behind_a_run()
    scenario.attach(a_worker("w2"), *resident(model))
    scenario.wait(60_000)
    assert only(scenario.wait(60_000), SendCancel).attempt_id == held.attempt_id
    scenario.finish(held, metered_ms=0, outcome=Outcome.CANCELLED)
    scenario.close()


def test_a_run_in_its_time_moves_nobody() -> None:
    scenario, model, _held = behind_a_run()
    scenario.attach(a_worker("w2"), *resident(model))
    view = scenario.machine.request(RequestId("long"))
    assert view is not None
    assert not of_kind(scenario.wait(10), SendCancel)
    scenario.close()


def test_nobody_moves_to_where_it_would_begin_later() -> None:
    scenario, _model, _held = behind_a_run()
    assert not of_kind(scenario.wait(60_000), SendCancel), "there is nowhere else"
    scenario.attach(a_worker("tiny", free_gib=1))
    assert not of_kind(scenario.wait(60_000), SendCancel)
    scenario.close()


def test_nobody_moves_before_the_wait_has_become_longer_than_the_load_there_costs() -> None:
    """Eight seconds and a half, which count twice: the load is for nothing here."""
    scenario, _model, held = behind_a_run()
    scenario.attach(a_worker("w2"))
    assert not of_kind(scenario.wait(10_000), SendCancel)
    assert only(scenario.wait(60_000), SendCancel).attempt_id == held.attempt_id
    scenario.finish(held, metered_ms=0, outcome=Outcome.CANCELLED)
    scenario.close()


def test_what_comes_later_on_the_worker_is_no_reason_to_move() -> None:
    scenario, _model, held = behind_a_run(queue_ahead=2)
    only(scenario.submit(a_job("later", a_model("other", gib=30))), SendAssign)
    scenario.attach(a_worker("w2"))
    asked = of_kind(scenario.wait(10_000), SendCancel)
    assert held.attempt_id not in [each.attempt_id for each in asked]
    scenario.close()


@pytest.mark.parametrize("moves_max", [0, 1])
def test_a_request_is_moved_so_often_and_no_more(moves_max: int) -> None:
    settings = CoreSettings(lease_ms=10_000_000, moves_max=moves_max, max_attempts=1)
    scenario, model, held = behind_a_run(settings)
    scenario.attach(a_worker("w2"), *resident(model))
    for _ in range(moves_max):
        assert only(scenario.wait(60_000), SendCancel).attempt_id == held.attempt_id
        moved = scenario.finish(held, metered_ms=0, outcome=Outcome.CANCELLED)
        held = only(moved, SendAssign)
    assert scenario.machine.request(RequestId("next")) is not None, "a move is no failed try"
    assert not of_kind(scenario.wait(600_000), SendCancel)
    scenario.close()


def test_who_is_being_moved_can_still_be_cancelled_by_its_caller() -> None:
    scenario, model, held = behind_a_run()
    scenario.attach(a_worker("w2"), *resident(model))
    scenario.wait(60_000)
    scenario.feed(CancelRequested(RequestId("next")))
    ended = only(scenario.finish(held, metered_ms=0, outcome=Outcome.CANCELLED), TellEnd)
    assert ended.end.state is RequestState.CANCELLED
    scenario.close()
