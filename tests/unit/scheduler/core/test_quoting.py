"""What callers are told before anything is accepted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quickthaw.scheduler.core.commands import SendAssign, TellEnd
from quickthaw.scheduler.core.events import CordonRequested
from quickthaw.scheduler.core.model import Job, ModelSpec, Tier, WorkerId
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.wire.errors import (
    BudgetExhausted,
    DeadlineExpired,
    ModelCannotFit,
    QueueFull,
    QuickthawError,
    Unavailable,
)
from support.core_builders import Scenario, a_job, a_model, a_worker, of_kind, only, resident


def refusal(scenario: Scenario, job: Job) -> QuickthawError | None:
    return scenario.machine.admission_error(job, scenario.now_ms)


def test_an_ordinary_request_is_admitted(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    assert refusal(scenario, a_job()) is None


def test_a_deadline_in_the_past_is_refused(scenario: Scenario) -> None:
    assert isinstance(refusal(scenario, a_job(deadline_ms=1_000)), DeadlineExpired)
    assert refusal(scenario, a_job(deadline_ms=1_001)) is None


def learned(scenario: Scenario, model: ModelSpec, *, seconds: float) -> None:
    """Of a run of one unit, on the workers that the scenario has."""
    assign = only(scenario.submit(a_job("req_learn", model)), SendAssign)
    scenario.run(assign)
    scenario.finish(assign, metered_ms=round(seconds * 1000))


def test_a_deadline_that_no_worker_can_meet_is_refused_with_the_earliest_end(
    scenario: Scenario,
) -> None:
    model = a_model()
    scenario.attach(a_worker("w1"), *resident(model))
    learned(scenario, model, seconds=4.0)
    late = a_job("req_late", model, deadline_ms=scenario.now_ms + 3_900)
    error = refusal(scenario, late)
    assert isinstance(error, DeadlineExpired)
    assert "earliest that the request could end is 4.0 s from now, on w1" in error.message
    assert error.metadata == {"earliest_end_ms": str(scenario.now_ms + 4_000)}
    assert refusal(scenario, replace(late, deadline_ms=scenario.now_ms + 4_100)) is None


def test_a_deadline_is_measured_against_what_is_placed_already(scenario: Scenario) -> None:
    model = a_model()
    scenario.attach(a_worker("w1"), *resident(model))
    learned(scenario, model, seconds=4.0)
    job = a_job("req_x", model, deadline_ms=scenario.now_ms + 9_000)
    scenario.run(only(scenario.submit(a_job("req_0", model)), SendAssign))
    assert refusal(scenario, job) is None
    scenario.submit(a_job("req_1", model))
    assert isinstance(refusal(scenario, job), DeadlineExpired)
    scenario.attach(a_worker("w2"), *resident(model))
    assert refusal(scenario, job) is None


def test_a_run_time_that_is_only_guessed_refuses_nobody(scenario: Scenario) -> None:
    scenario.attach(a_worker(), *resident(a_model()))
    job = a_job(work_units=1_000.0, deadline_ms=scenario.now_ms + 3_000)
    assert refusal(scenario, job) is None


def test_one_that_waits_fails_as_soon_as_no_worker_could_be_in_time(scenario: Scenario) -> None:
    """Two runs of four seconds are before it; the second was not, when it was accepted."""
    model = a_model()
    scenario.attach(a_worker("w1"), *resident(model))
    learned(scenario, model, seconds=4.0)
    first = only(scenario.submit(a_job("req_0", model)), SendAssign)
    scenario.run(first)
    scenario.submit(a_job("req_1", model))
    deadline_ms = scenario.now_ms + 9_000
    assert scenario.submit(a_job("req_late", model, deadline_ms=deadline_ms))
    assert scenario.machine.next_timer_ms() == deadline_ms - 4_000
    scenario.wait(4_900)
    commands = scenario.wait(100)
    ended = only(commands, TellEnd)
    assert ended.job.request_id == "req_late"
    assert ended.end.failure is not None
    assert ended.end.failure.reason == "DEADLINE_EXPIRED"
    assert scenario.now_ms < deadline_ms


def test_a_model_for_no_attached_worker_is_refused_with_both_sizes(scenario: Scenario) -> None:
    big = a_job(model=a_model(gib=40, working_gib=1))
    assert refusal(scenario, big) is None, "with no worker at all it may wait for one"
    scenario.attach(a_worker(free_gib=40))
    error = refusal(scenario, big)
    assert isinstance(error, ModelCannotFit)
    assert error.metadata == {"needs_bytes": str(41 << 30), "largest_bytes": str(40 << 30)}
    scenario.attach(a_worker("w2", free_gib=41))
    assert refusal(scenario, big) is None


def test_a_price_cap_below_every_worker_is_refused(scenario: Scenario) -> None:
    scenario.attach(a_worker(gpu_type="h100"))
    capped = a_job(work_units=10.0, price_cap_nanodollars=500_000)
    assert isinstance(refusal(scenario, capped), BudgetExhausted)
    scenario.attach(a_worker("w2", gpu_type="cheap"))
    assert refusal(scenario, capped) is None


def test_what_was_lost_on_the_only_worker_within_its_cap_goes_there_again(
    scenario: Scenario,
) -> None:
    """Another one is ready, but would cost more than the caller pays: it would wait for ever."""
    scenario.attach(a_worker("dear", gpu_type="h100"))
    scenario.attach(a_worker("cheap", gpu_type="cheap"))
    capped = a_job(work_units=10.0, price_cap_nanodollars=500_000)
    assert only(scenario.submit(capped), SendAssign).worker_id == "cheap"
    again = scenario.attach(a_worker("cheap", gpu_type="cheap", incarnation="second"))
    assert [each.worker_id for each in of_kind(again, SendAssign)] == ["cheap"]


def test_a_full_queue_is_refused_with_a_delay() -> None:
    scenario = Scenario(CoreSettings(queue_max=3, queue_max_per_tenant=2))
    for number in range(2):
        scenario.submit(a_job(f"req_{number}"))
    error = refusal(scenario, a_job("req_x"))
    assert isinstance(error, QueueFull)
    assert error.retry_delay_seconds == 2.0
    assert refusal(scenario, a_job("req_x", tenant="other")) is None
    scenario.submit(a_job("req_2", tenant="other"))
    assert isinstance(refusal(scenario, a_job("req_x", tenant="third")), QueueFull)
    scenario.close()


def test_a_quote_is_what_then_happens(scenario: Scenario) -> None:
    model = a_model(gib=4)
    scenario.attach(a_worker("w1"), *resident(model, Tier.PINNED))
    scenario.attach(a_worker("w2"))
    job = a_job(model=model, work_units=20.0)
    quote = scenario.machine.quote(job, scenario.now_ms)
    assert (quote.worker_id, quote.start_tier) == ("w1", Tier.PINNED)
    assert quote.start_seconds == (0.0, 0.0, 0)
    assert quote.load_seconds.p50 == pytest.approx(0.21)
    assert quote.run_seconds.p50 == pytest.approx(2.0)
    assert quote.price_nanodollars.p50 == pytest.approx(2_000_000)
    assert quote.run_seconds.p95 > quote.run_seconds.p50
    assert quote.load_seconds.p95 > quote.load_seconds.p50
    assert only(scenario.submit(job), SendAssign).worker_id == quote.worker_id


def test_a_quote_behind_a_queue_starts_later(scenario: Scenario) -> None:
    scenario.attach(a_worker(), *resident(a_model()))
    for number in range(10):
        scenario.submit(a_job(f"req_{number}", work_units=10.0))
    quote = scenario.machine.quote(a_job("req_x"), scenario.now_ms)
    # Two run or are next, eight wait: ten seconds of work.
    assert quote.start_seconds.p50 > 8.0


def test_without_a_worker_there_is_nothing_to_quote(scenario: Scenario) -> None:
    with pytest.raises(Unavailable):
        scenario.machine.quote(a_job(), scenario.now_ms)
    scenario.attach(a_worker())
    scenario.feed(CordonRequested(WorkerId("w1")))
    with pytest.raises(Unavailable):
        scenario.machine.quote(a_job(), scenario.now_ms)


def test_what_would_be_refused_is_not_quoted(scenario: Scenario) -> None:
    with pytest.raises(DeadlineExpired):
        scenario.machine.quote(a_job(deadline_ms=1), scenario.now_ms)
