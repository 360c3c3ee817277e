"""Workers come, go, come back and are told what is no longer theirs; restarts of the scheduler."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.commands import (
    CloseStream,
    JournalEnd,
    JournalMetered,
    JournalPlacement,
    Requeued,
    SendAssign,
    SendCancel,
    SendHeartbeatAck,
    SendWelcome,
)
from quickthaw.scheduler.core.events import (
    AttemptFinished,
    AttemptReport,
    CancelRequested,
    RequestRecovered,
    ResidencyChanged,
    WorkerDisconnected,
    WorkerHeartbeat,
    WorkerHello,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Outcome,
    RequestId,
    Residency,
    Tier,
    WorkerId,
)
from support.core_builders import (
    GIB,
    Scenario,
    a_job,
    a_model,
    a_worker,
    of_kind,
    only,
    resident,
)

REQ = RequestId("req_1")
W1 = WorkerId("w1")


def report(
    attempt_id: str = "req_1.1",
    state: RequestState = RequestState.RUNNING,
    metered_ms: int = 0,
    request_id: RequestId = REQ,
) -> AttemptReport:
    return AttemptReport(AttemptId(attempt_id), request_id, state, metered_ms)


def a_record(number: int = 1, worker_id: WorkerId = W1) -> AttemptRecord:
    """An open attempt as an earlier scheduler journalled it."""
    return AttemptRecord(
        attempt_id=AttemptId(f"req_1.{number}"),
        request_id=REQ,
        number=number,
        worker_id=worker_id,
        incarnation="first",
        gpu_type="h100",
        rate_nanodollars_per_second=777,
        price_version="earlier",
        placed_ms=500,
        metered_ms=40,
    )


# ---- reconnecting ------------------------------------------------------------------------------


def test_a_reconnecting_worker_goes_on_with_what_it_runs(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    assign = only(scenario.submit(a_job()), SendAssign)
    scenario.feed(WorkerDisconnected(W1), after_ms=100)
    assert scenario.machine.worker(W1) is not None
    commands = scenario.feed(
        WorkerHello(a_worker(), resident(a_model()), (report(metered_ms=90),)), after_ms=10_000
    )
    assert only(commands, SendWelcome).revoked_attempt_ids == ()
    assert of_kind(commands, SendAssign) == []
    view = scenario.machine.request(REQ)
    assert view is not None
    assert view.state is RequestState.RUNNING
    # A whole lease from the Hello on.
    scenario.wait(14_999)
    assert scenario.machine.request(REQ) is not None
    ended = only(scenario.finish(assign, metered_ms=0), JournalEnd)
    assert ended.ledger is not None
    assert ended.ledger.metered_ms == 90, "metered time never shrinks"


def test_an_assign_that_was_lost_with_its_stream_is_said_again(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    first = only(scenario.submit(a_job()), SendAssign)
    scenario.feed(WorkerDisconnected(W1))
    commands = scenario.feed(WorkerHello(a_worker()))
    assert only(commands, SendAssign) == first
    assert of_kind(commands, JournalEnd) == []


def test_an_attempt_that_had_begun_and_is_not_known_any_more_is_lost(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.run(only(scenario.submit(a_job()), SendAssign))
    commands = scenario.feed(WorkerHello(a_worker()))
    assert isinstance(only(commands, JournalEnd).then, Requeued)
    assert only(commands, SendAssign).number == 2


def test_a_new_incarnation_has_lost_what_the_older_ran(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.run(only(scenario.submit(a_job()), SendAssign))
    commands = scenario.feed(WorkerHello(a_worker(incarnation="second"), (), (report(),)))
    assert isinstance(only(commands, JournalEnd).then, Requeued)
    assert only(commands, SendWelcome).revoked_attempt_ids == ("req_1.1",)


def test_what_was_given_to_another_worker_is_revoked(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.run(only(scenario.submit(a_job()), SendAssign))
    scenario.attach(a_worker("w2"))
    scenario.feed(WorkerDisconnected(W1))
    scenario.feed(WorkerHeartbeat(WorkerId("w2"), 1), after_ms=14_000)
    assert only(scenario.wait(1_000), SendAssign).worker_id == "w2"
    commands = scenario.feed(WorkerHello(a_worker(), (), (report(metered_ms=5),)))
    assert only(commands, SendWelcome).revoked_attempt_ids == ("req_1.1",)


def test_a_cancellation_is_said_again_after_a_reconnect(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.run(only(scenario.submit(a_job()), SendAssign))
    scenario.feed(WorkerDisconnected(W1))
    assert of_kind(scenario.feed(CancelRequested(REQ)), SendCancel) == []
    commands = scenario.feed(WorkerHello(a_worker(), (), (report(),)))
    assert only(commands, SendCancel).attempt_id == "req_1.1"


def test_an_end_that_hello_mentions_is_waited_for(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    assign = only(scenario.submit(a_job()), SendAssign)
    scenario.feed(WorkerDisconnected(W1))
    ended = report(state=RequestState.SUCCEEDED, metered_ms=80)
    commands = scenario.feed(WorkerHello(a_worker(), (), (ended,)))
    assert only(commands, SendWelcome).revoked_attempt_ids == ()
    line = only(scenario.finish(assign, metered_ms=80), JournalEnd).ledger
    assert line is not None
    assert line.billed_ms == 80


def test_an_end_that_is_only_mentioned_holds_its_place_for_one_lease(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.run(only(scenario.submit(a_job()), SendAssign))
    ended = report(state=RequestState.SUCCEEDED, metered_ms=80)
    for sequence in range(1, 8):
        scenario.feed(WorkerHeartbeat(W1, sequence, (ended,)), after_ms=2_000)
        assert of_kind(scenario.wait(0), JournalEnd) == []
    scenario.feed(WorkerHello(a_worker(), (), (ended,)), after_ms=2_000)
    scenario.feed(WorkerHeartbeat(W1, 8, (ended,)), after_ms=999)
    write = only(scenario.wait(1), JournalEnd)
    assert isinstance(write.then, Requeued)
    assert "silent about how it ended for 15000 ms" in write.then.detail
    late = scenario.feed(WorkerHeartbeat(W1, 9, (ended,)))
    assert only(late, SendHeartbeatAck).revoked_attempt_ids == ("req_1.1",)


# ---- a scheduler that starts again -------------------------------------------------------------


def test_a_recovered_attempt_goes_on_at_its_worker_and_at_its_price(scenario: Scenario) -> None:
    scenario.feed(RequestRecovered(a_job(), 1, a_record(), RequestState.RUNNING))
    commands = scenario.feed(WorkerHello(a_worker(), resident(a_model()), (report(),)))
    assert of_kind(commands, SendAssign) == []
    view = scenario.machine.request(REQ)
    assert view is not None
    assert view.attempt is not None
    commands = scenario.feed(
        AttemptFinished(W1, AttemptId("req_1.1"), REQ, Outcome.SUCCEEDED, 2_000)
    )
    line = only(commands, JournalEnd).ledger
    assert line is not None
    assert (line.rate_nanodollars_per_second, line.price_version) == (777, "earlier")
    assert line.price_nanodollars == 1_554


def test_a_recovered_attempt_waits_a_lease_for_its_worker_and_is_then_lost(
    scenario: Scenario,
) -> None:
    scenario.feed(RequestRecovered(a_job(), 1, a_record(), RequestState.RUNNING))
    assert scenario.wait(14_999) == []
    write = only(scenario.wait(1), JournalEnd)
    assert isinstance(write.then, Requeued)
    assert write.ledger is not None
    assert (write.ledger.metered_ms, write.ledger.billed_ms) == (40, 0)


def test_a_recovered_assign_that_never_arrived_is_said_again(scenario: Scenario) -> None:
    scenario.feed(RequestRecovered(a_job(), 1, a_record()))
    assign = only(scenario.feed(WorkerHello(a_worker())), SendAssign)
    assert (assign.attempt_id, assign.number) == ("req_1.1", 1)


def test_a_recovered_cancellation_is_still_wanted(scenario: Scenario) -> None:
    scenario.feed(
        RequestRecovered(a_job(), 1, a_record(), RequestState.RUNNING, cancel_requested=True)
    )
    commands = scenario.feed(WorkerHello(a_worker(), (), (report(),)))
    assert only(commands, SendCancel).attempt_id == "req_1.1"


def test_a_recovered_request_does_not_go_where_it_was_lost(scenario: Scenario) -> None:
    scenario.attach(a_worker(), *resident(a_model()))
    scenario.attach(a_worker("w2", free_gib=8))
    scenario.feed(RequestRecovered(a_job(), 1, lost_on=frozenset({W1})))
    assign = only(scenario.wait(1), SendAssign)
    assert (assign.worker_id, assign.number) == ("w2", 2)


def test_an_attempt_whose_placement_was_never_written_is_adopted(scenario: Scenario) -> None:
    scenario.submit(a_job())
    commands = scenario.feed(WorkerHello(a_worker(), (), (report(metered_ms=60),)))
    assert only(commands, JournalPlacement).attempt.attempt_id == "req_1.1"
    assert only(commands, SendWelcome).revoked_attempt_ids == ()
    assert of_kind(commands, SendAssign) == []
    view = scenario.machine.request(REQ)
    assert view is not None
    assert view.state is RequestState.RUNNING


def test_an_attempt_that_the_books_have_closed_is_not_adopted(scenario: Scenario) -> None:
    scenario.feed(RequestRecovered(a_job(), 1))
    commands = scenario.feed(WorkerHello(a_worker(), (), (report("req_1.1"),)))
    assert only(commands, SendWelcome).revoked_attempt_ids == ("req_1.1",)
    assert only(commands, SendAssign).attempt_id == "req_1.2"


@pytest.mark.parametrize("claimed", ["req_2.1", "req_1.x", "req_1"])
def test_an_attempt_of_another_request_is_not_adopted(scenario: Scenario, claimed: str) -> None:
    scenario.submit(a_job())
    commands = scenario.feed(WorkerHello(a_worker(), (), (report(claimed),)))
    assert only(commands, SendWelcome).revoked_attempt_ids == (claimed,)


def test_the_number_of_a_revoked_attempt_is_not_used_again(scenario: Scenario) -> None:
    """It ran on w2 by an order whose write was lost; w2's late words must name nothing of ours."""
    scenario.feed(RequestRecovered(a_job(), 1, a_record(), RequestState.RUNNING))
    commands = scenario.feed(WorkerHello(a_worker("w2"), (), (report("req_1.2"),)))
    assert only(commands, SendWelcome).revoked_attempt_ids == ("req_1.2",)
    again = only(scenario.feed(WorkerHello(a_worker(incarnation="second"))), SendAssign)
    assert again.attempt_id == "req_1.3"


# ---- heartbeats --------------------------------------------------------------------------------


def test_metered_time_is_written_before_the_heartbeat_is_acknowledged(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    scenario.run(only(scenario.submit(a_job()), SendAssign))
    beat = WorkerHeartbeat(W1, 7, (report(metered_ms=250),))
    assert scenario.feed(beat) == [
        JournalMetered(((AttemptId("req_1.1"), 250),)),
        SendHeartbeatAck(W1, 7, ()),
    ]
    assert scenario.feed(beat) == [SendHeartbeatAck(W1, 7, ())], "old news is not written"


def test_a_heartbeat_is_told_what_is_no_longer_the_workers(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    beat = WorkerHeartbeat(W1, 1, (report("req_9.1", request_id=RequestId("req_9")),))
    assert only(scenario.feed(beat), SendHeartbeatAck).revoked_attempt_ids == ("req_9.1",)


def test_a_heartbeat_of_nobody_we_know_ends_its_stream(scenario: Scenario) -> None:
    commands = scenario.feed(WorkerHeartbeat(W1, 1))
    assert only(commands, CloseStream).worker_id == "w1"


def test_a_worker_that_is_silent_behind_a_live_stream_is_let_go(scenario: Scenario) -> None:
    scenario.attach(a_worker())
    assert scenario.machine.next_timer_ms() == scenario.now_ms + 15_000
    assert only(scenario.wait(15_000), CloseStream).worker_id == "w1"
    assert list(scenario.machine.workers()) == []


# ---- residency ---------------------------------------------------------------------------------


def test_room_counts_as_taken_until_the_worker_says_that_it_is_free(scenario: Scenario) -> None:
    old, new = a_model("old", gib=8), a_model("new", gib=8)
    scenario.attach(a_worker(free_gib=10), *resident(old))
    assign = only(scenario.submit(a_job("req_1", new)), SendAssign)
    assert assign.evict_digests == ("old-weights",)
    second = only(scenario.submit(a_job("req_2", new)), SendAssign)
    assert second.evict_digests == ("old-weights",), "said again: the first may never get there"
    freed = Residency(assign.evict_digests[0], Tier.VRAM, 8 * GIB)
    scenario.feed(ResidencyChanged(W1, resident(new), (freed,)))
    worker = scenario.machine.worker(W1)
    assert worker is not None
    assert worker.leaving() == set()
    assert worker.planned == {"new-weights": 8 * GIB}


def test_evictions_that_never_came_are_off_when_their_attempt_has_ended(
    scenario: Scenario,
) -> None:
    old, new = a_model("old", gib=8), a_model("new", gib=8)
    scenario.attach(a_worker(free_gib=10), *resident(old))
    assign = only(scenario.submit(a_job("req_1", new)), SendAssign)
    scenario.feed(CancelRequested(REQ))
    scenario.finish(assign, outcome=Outcome.CANCELLED, metered_ms=0)
    worker = scenario.machine.worker(W1)
    assert worker is not None
    assert worker.planned == {"old-weights": 8 * GIB}


def test_what_was_to_go_and_is_needed_again_is_not_told_to_go_again(scenario: Scenario) -> None:
    old, filler, new = a_model("old", gib=8), a_model("filler", gib=16), a_model("new", gib=10)
    worker = a_worker(free_gib=30, concurrency=2)
    scenario.attach(worker, *resident(old), *resident(filler))
    wanted = enumerate((new, filler, new))
    assigns = [only(scenario.submit(a_job(f"req_{n}", m)), SendAssign) for n, m in wanted]
    assert [assign.evict_digests for assign in assigns] == [
        ("filler-weights",),
        ("old-weights",),
        ("old-weights",),
    ]
