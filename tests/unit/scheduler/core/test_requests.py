"""What becomes of a request: events in, exactly these commands out."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.commands import (
    Command,
    JournalCancel,
    JournalEnd,
    JournalPlacement,
    JournalProgress,
    RequestEnd,
    Requeued,
    SendAssign,
    SendCancel,
    SendFinishedAck,
    TellEnd,
    TellProgress,
    TellQueued,
)
from quickthaw.scheduler.core.events import (
    AttemptFinished,
    AttemptLoading,
    AttemptReport,
    AttemptRunning,
    CancelRequested,
    RequestJournalled,
    WorkerDisconnected,
    WorkerGoodbye,
    WorkerHeartbeat,
    WorkerHello,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import Failure, Outcome, RequestId, Tier, WorkerId
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

REQ = RequestId("req_1")


def placed(scenario: Scenario, *, deadline_ms: int = 0) -> SendAssign:
    """A worker with the model and one request placed there."""
    scenario.attach(a_worker("w1"), *resident(a_model()))
    return only(scenario.submit(a_job(deadline_ms=deadline_ms)), SendAssign)


def the_end(commands: list[Command]) -> RequestEnd:
    ended = only(commands, JournalEnd).then
    assert isinstance(ended, RequestEnd)
    return ended


def test_with_no_worker_a_request_waits(scenario: Scenario) -> None:
    assert scenario.submit(a_job()) == [TellQueued(REQ, 1_000, 0, 0)]


def test_a_request_is_placed_on_the_worker_that_attaches(scenario: Scenario) -> None:
    scenario.submit(a_job())
    commands = scenario.attach(a_worker("w1"))
    kinds = [type(command).__name__ for command in commands]
    assert kinds == ["SendWelcome", "JournalPlacement", "TellProgress", "SendAssign"]
    assign = only(commands, SendAssign)
    assert (assign.worker_id, assign.attempt_id, assign.number) == ("w1", "req_1.1", 1)


def test_a_request_fed_twice_is_one_request(scenario: Scenario) -> None:
    placed(scenario)
    assert scenario.submit(a_job()) == []


def test_loading_and_running_are_journalled_and_told(scenario: Scenario) -> None:
    assign = placed(scenario)
    loading = scenario.feed(AttemptLoading(assign.worker_id, assign.attempt_id))
    assert only(loading, JournalProgress).state is RequestState.LOADING
    assert only(loading, TellProgress).state is RequestState.LOADING
    running = scenario.run(assign, load_ms=40, tier=Tier.PINNED)
    attempt = only(running, JournalProgress).attempt
    assert (attempt.load_ms, attempt.start_tier) == (40, Tier.PINNED)
    assert attempt.started_ms == scenario.now_ms


def test_a_worker_that_skips_loading_is_followed_through_it(scenario: Scenario) -> None:
    assign = placed(scenario)
    told = of_kind(scenario.run(assign), TellProgress)
    assert [command.state for command in told] == [RequestState.LOADING, RequestState.RUNNING]


def test_news_that_is_old_changes_nothing(scenario: Scenario) -> None:
    assign = placed(scenario)
    scenario.run(assign)
    assert scenario.feed(AttemptLoading(assign.worker_id, assign.attempt_id)) == []
    assert scenario.run(assign) == []


def test_news_from_a_worker_that_does_not_hold_the_lease_changes_nothing(
    scenario: Scenario,
) -> None:
    assign = placed(scenario)
    scenario.attach(a_worker("w2"))
    assert scenario.feed(AttemptRunning(WorkerId("w2"), assign.attempt_id)) == []
    stolen = scenario.feed(
        AttemptFinished(WorkerId("w2"), assign.attempt_id, REQ, Outcome.SUCCEEDED, 5)
    )
    assert stolen == [SendFinishedAck(WorkerId("w2"), assign.attempt_id)]


def test_a_success_is_one_write_then_the_callers_then_the_worker(scenario: Scenario) -> None:
    assign = placed(scenario)
    scenario.run(assign, load_ms=40, tier=Tier.PINNED)
    result = object()
    commands = scenario.feed(
        AttemptFinished(
            assign.worker_id, assign.attempt_id, REQ, Outcome.SUCCEEDED, 1_234, payload=result
        )
    )
    assert [type(command) for command in commands] == [JournalEnd, TellEnd, SendFinishedAck]
    write = only(commands, JournalEnd)
    ended = write.then
    assert isinstance(ended, RequestEnd)
    assert ended.state is RequestState.SUCCEEDED
    assert ended.payload is result
    assert write.ledger is not None
    assert write.ledger.metered_ms == write.ledger.billed_ms == 1_234
    assert write.ledger.price_nanodollars == 1_234_000
    receipt = ended.receipt
    assert (receipt.run_ms, receipt.billed_ms, receipt.load_ms) == (1_234, 1_234, 40)
    assert receipt.price_nanodollars == write.ledger.price_nanodollars
    assert receipt.start_tier is Tier.PINNED
    assert receipt.worker_id == "w1"
    assert scenario.machine.request(REQ) is None


def test_a_finish_said_again_is_only_acknowledged(scenario: Scenario) -> None:
    assign = placed(scenario)
    scenario.finish(assign)
    assert scenario.finish(assign) == [SendFinishedAck(assign.worker_id, assign.attempt_id)]


def test_a_failure_is_terminal_and_free(scenario: Scenario) -> None:
    assign = placed(scenario)
    scenario.run(assign)
    failure = Failure("ENGINE_FAILED", "no such scheduler")
    commands = scenario.feed(
        AttemptFinished(
            assign.worker_id, assign.attempt_id, REQ, Outcome.FAILED, 500, failure=failure
        )
    )
    write = only(commands, JournalEnd)
    assert isinstance(write.then, RequestEnd)
    assert (write.then.state, write.then.failure) == (RequestState.FAILED, failure)
    assert write.ledger is not None
    assert (write.ledger.metered_ms, write.ledger.billed_ms) == (500, 0)
    assert write.ledger.waiver == write.then.receipt.waiver == "failed:engine_failed"


# ---- cancellation ------------------------------------------------------------------------------


def test_a_queued_request_is_cancelled_at_once(scenario: Scenario) -> None:
    scenario.submit(a_job())
    commands = scenario.feed(CancelRequested(REQ))
    assert [type(command) for command in commands] == [JournalEnd, TellEnd]
    write = only(commands, JournalEnd)
    assert write.attempt is None
    assert write.ledger is None
    assert isinstance(write.then, RequestEnd)
    assert write.then.state is RequestState.CANCELLED


@pytest.mark.parametrize(
    "reached", [RequestState.PLACED, RequestState.LOADING, RequestState.RUNNING]
)
def test_a_held_request_is_cancelled_when_its_worker_says_so(
    scenario: Scenario, reached: RequestState
) -> None:
    assign = placed(scenario)
    if reached is not RequestState.PLACED:
        scenario.feed(AttemptLoading(assign.worker_id, assign.attempt_id))
    if reached is RequestState.RUNNING:
        scenario.run(assign)
    asked = scenario.feed(CancelRequested(REQ, "enough"))
    assert asked == [JournalCancel(REQ), SendCancel(assign.worker_id, assign.attempt_id, "enough")]
    assert scenario.feed(CancelRequested(REQ)) == []
    metered_ms = 300 if reached is RequestState.RUNNING else 0
    commands = scenario.finish(assign, outcome=Outcome.CANCELLED, metered_ms=metered_ms)
    write = only(commands, JournalEnd)
    assert isinstance(write.then, RequestEnd)
    assert write.then.state is RequestState.CANCELLED
    assert write.ledger is not None
    assert write.ledger.billed_ms == metered_ms


def test_a_cancelled_job_releases_its_lease_before_the_next_placement(scenario: Scenario) -> None:
    big = a_model("big", gib=30)
    other = a_model("other", gib=30)
    scenario.attach(a_worker("w1"), *resident(big))
    first = only(scenario.submit(a_job("req_1", big)), SendAssign)
    assert of_kind(scenario.submit(a_job("req_2", other)), SendAssign) == []
    scenario.feed(CancelRequested(REQ))
    commands = scenario.finish(first, outcome=Outcome.CANCELLED, metered_ms=0)
    second = only(commands, SendAssign)
    assert second.job.request_id == "req_2"
    assert second.evict_digests == ("big-weights",)


def test_a_success_that_was_under_way_when_cancelled_is_a_success(scenario: Scenario) -> None:
    assign = placed(scenario)
    scenario.feed(CancelRequested(REQ))
    ended = only(scenario.finish(assign), JournalEnd).then
    assert isinstance(ended, RequestEnd)
    assert ended.state is RequestState.SUCCEEDED


def test_a_cancelled_request_whose_worker_is_lost_is_cancelled_not_retried(
    scenario: Scenario,
) -> None:
    assign = placed(scenario)
    scenario.run(assign)
    scenario.feed(CancelRequested(REQ))
    write = only(scenario.wait(scenario.settings.lease_ms), JournalEnd)
    assert isinstance(write.then, RequestEnd)
    assert write.then.state is RequestState.CANCELLED
    assert write.ledger is not None
    assert write.ledger.waiver == "worker_lost"


def test_cancelling_what_nobody_knows_is_nothing(scenario: Scenario) -> None:
    assert scenario.feed(CancelRequested(RequestId("req_unknown"))) == []


# ---- deadlines ---------------------------------------------------------------------------------


def test_a_queued_request_fails_at_its_deadline(scenario: Scenario) -> None:
    scenario.submit(a_job(deadline_ms=3_000))
    assert scenario.machine.next_timer_ms() == 2_900, "it looks again while it could be in time"
    assert scenario.wait(1_900) == [], "without a worker nobody knows that it is too late"
    assert scenario.machine.next_timer_ms() == 3_000
    assert scenario.wait(99) == []
    ended = only(scenario.wait(1), JournalEnd).then
    assert isinstance(ended, RequestEnd)
    assert ended.state is RequestState.FAILED
    assert ended.failure is not None
    assert ended.failure.reason == "DEADLINE_EXPIRED"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_running_request_is_stopped_at_its_deadline_and_is_free(
    scenario: Scenario, outcome: Outcome
) -> None:
    assign = placed(scenario, deadline_ms=3_000)
    scenario.run(assign)
    assert of_kind(scenario.wait(2_000), SendCancel)
    write = only(scenario.finish(assign, outcome=outcome), JournalEnd)
    assert isinstance(write.then, RequestEnd)
    assert write.then.state is RequestState.FAILED
    assert write.then.failure is not None
    assert write.then.failure.reason == "DEADLINE_EXPIRED"
    assert write.ledger is not None
    assert (write.ledger.billed_ms, write.ledger.waiver) == (0, "failed:deadline_expired")


# ---- loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reached", [RequestState.PLACED, RequestState.LOADING, RequestState.RUNNING]
)
def test_a_silent_worker_loses_its_attempt_at_the_end_of_the_lease(
    scenario: Scenario, reached: RequestState
) -> None:
    assign = placed(scenario)
    if reached is not RequestState.PLACED:
        scenario.feed(AttemptLoading(assign.worker_id, assign.attempt_id))
    if reached is RequestState.RUNNING:
        report = AttemptReport(assign.attempt_id, REQ, RequestState.RUNNING, 700)
        scenario.feed(WorkerHeartbeat(assign.worker_id, 1, (report,)))
    scenario.feed(WorkerDisconnected(assign.worker_id))
    assert scenario.wait(scenario.settings.lease_ms - 1) == []
    commands = scenario.wait(1)
    write = only(commands, JournalEnd)
    assert isinstance(write.then, Requeued)
    assert write.ledger is not None
    assert write.ledger.outcome is Outcome.FAILED
    assert (write.ledger.billed_ms, write.ledger.waiver) == (0, "worker_lost")
    assert write.ledger.metered_ms == (700 if reached is RequestState.RUNNING else 0)
    assert only(commands, TellQueued).attempt == 1
    assert list(scenario.machine.workers()) == []


def test_a_lost_attempt_is_tried_again_on_another_worker(scenario: Scenario) -> None:
    assign = placed(scenario)
    scenario.attach(a_worker("w2"))
    commands = scenario.feed(WorkerGoodbye(assign.worker_id))
    again = only(commands, SendAssign)
    assert (again.worker_id, again.attempt_id, again.number) == ("w2", "req_1.2", 2)
    assert only(commands, JournalPlacement).attempt.number == 2


def test_a_worker_that_lost_a_request_is_not_asked_again_if_another_could_do_it(
    scenario: Scenario,
) -> None:
    placed(scenario)
    scenario.attach(a_worker("w2", free_gib=10))
    commands = scenario.attach(a_worker("w1", incarnation="second"), *resident(a_model()))
    assert only(commands, SendAssign).worker_id == "w2"
    assert [r.reason for r in scenario.machine.explain(REQ)[-1].refusals] == ["excluded"]


def test_a_worker_that_lost_a_request_gets_it_again_if_no_other_can_do_it(
    scenario: Scenario,
) -> None:
    placed(scenario)
    commands = scenario.attach(a_worker("w1", incarnation="second"))
    assert only(commands, SendAssign).number == 2


def test_a_request_that_kills_every_worker_is_failed_with_that_reason(scenario: Scenario) -> None:
    placed(scenario)
    commands: list[Command] = []
    for incarnation in ("second", "third", "fourth"):
        commands = scenario.feed(WorkerHello(a_worker("w1", incarnation=incarnation)))
    ended = the_end(commands)
    assert ended.state is RequestState.FAILED
    assert ended.failure is not None
    assert ended.failure.reason == "ATTEMPTS_EXHAUSTED"
    assert ended.receipt.attempts == 3


def test_an_attempt_that_its_worker_stopped_unasked_is_tried_again(scenario: Scenario) -> None:
    assign = placed(scenario)
    commands = scenario.finish(assign, outcome=Outcome.CANCELLED)
    assert isinstance(only(commands, JournalEnd).then, Requeued)
    assert only(commands, SendAssign).number == 2


def test_a_heartbeat_renews_the_lease_of_what_it_names_and_of_nothing_else() -> None:
    scenario = Scenario(CoreSettings())
    scenario.attach(a_worker("w1"), *resident(a_model()))
    first = only(scenario.submit(a_job("req_1")), SendAssign)
    scenario.feed(RequestJournalled(a_job("req_2")))
    report = AttemptReport(first.attempt_id, REQ, RequestState.LOADING)
    scenario.feed(WorkerHeartbeat(first.worker_id, 1, (report,)), after_ms=10_000)
    lost = of_kind(scenario.wait(5_000), JournalEnd)
    assert [write.job.request_id for write in lost] == ["req_2"]
    scenario.close()
