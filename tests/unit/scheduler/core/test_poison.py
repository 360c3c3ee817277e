"""Requests, versions of models and workers that fail again and again, and what stops them."""

from __future__ import annotations

import dataclasses

import pytest

from quickthaw.scheduler.core.commands import (
    Command,
    JournalEnd,
    JournalQuarantine,
    Requeued,
    SendAssign,
    TellEnd,
)
from quickthaw.scheduler.core.events import (
    AttemptFinished,
    AttemptLoading,
    AttemptRunning,
    QuarantineRecovered,
    QuarantineReleased,
    RequestRecovered,
    UncordonRequested,
    WorkerGoodbye,
    WorkerHello,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptId,
    Failure,
    Job,
    Outcome,
    RequestId,
    WorkerId,
    WorkerState,
)
from quickthaw.scheduler.core.settings import CoreSettings, CrashPolicy
from quickthaw.wire.errors import ModelQuarantined
from support.core_builders import Scenario, a_job, a_model, a_worker, of_kind, only, resident

CORRUPT = Failure("SNAPSHOT_CORRUPT", "block 3 differs")


def loading(scenario: Scenario, assign: SendAssign) -> None:
    scenario.feed(AttemptLoading(assign.worker_id, assign.attempt_id))


def dies(scenario: Scenario, worker_id: str, incarnation: str) -> list[Command]:
    """The worker's process ends, and its next one says Hello."""
    return scenario.attach(a_worker(worker_id, incarnation=incarnation))


def failed_load(scenario: Scenario, number: int, why: Failure = CORRUPT) -> list[Command]:
    """Submits one more request, whose load fails."""
    assign = only(scenario.submit(a_job(f"req_{number}")), SendAssign)
    loading(scenario, assign)
    return scenario.feed(
        AttemptFinished(
            assign.worker_id,
            assign.attempt_id,
            RequestId(f"req_{number}"),
            Outcome.FAILED,
            0,
            failure=why,
        )
    )


def reason(commands: list[Command]) -> str:
    failure = only(commands, TellEnd).end.failure
    assert failure is not None
    return failure.reason


def test_a_request_that_kills_workers_is_failed_as_poison_and_says_which() -> None:
    scenario = Scenario(CoreSettings(max_attempts=10, poison_kills=2))
    for worker_id in ("w1", "w2", "w3"):
        scenario.attach(a_worker(worker_id))
    first = only(scenario.submit(a_job()), SendAssign)
    loading(scenario, first)
    second = only(dies(scenario, first.worker_id, "second"), SendAssign)
    assert second.worker_id != first.worker_id
    loading(scenario, second)
    commands = dies(scenario, second.worker_id, "second")
    assert reason(commands) == "POISON_REQUEST"
    failure = only(commands, TellEnd).end.failure
    assert failure is not None
    assert first.worker_id in failure.message
    assert second.worker_id in failure.message


def test_a_death_before_a_request_began_is_not_held_against_it() -> None:
    scenario = Scenario(CoreSettings(max_attempts=3, poison_kills=1))
    scenario.attach(a_worker("w1"))
    scenario.submit(a_job())
    assert not of_kind(dies(scenario, "w1", "second"), TellEnd)


def test_a_suspect_is_tried_alone_and_takes_nothing_else_along() -> None:
    scenario = Scenario(CoreSettings(max_attempts=10))
    model = a_model()
    scenario.attach(a_worker("w1"), *resident(model))
    assign = only(scenario.submit(a_job("req_suspect", model)), SendAssign)
    scenario.feed(AttemptRunning(assign.worker_id, assign.attempt_id))
    scenario.attach(a_worker("w2", concurrency=2), *resident(model))
    other = only(scenario.submit(a_job("req_other", model)), SendAssign)
    assert other.worker_id == "w2"
    scenario.attach(a_worker("w3"))
    # w2 has the model and a place left, but what runs there would be taken along.
    again = only(dies(scenario, "w1", "second"), SendAssign)
    assert (again.job.request_id, again.worker_id) == ("req_suspect", "w3")
    third = only(scenario.submit(a_job("req_third", model, worker_hint="w3")), SendAssign)
    assert third.worker_id != "w3"
    refusals = scenario.machine.explain(RequestId("req_third"))[-1].refusals
    assert {r.worker_id: r.reason for r in refusals}[WorkerId("w3")] == "reserved"


def test_a_suspect_that_ends_well_leaves_its_worker_to_others() -> None:
    scenario = Scenario(CoreSettings(max_attempts=10))
    model = a_model()
    scenario.attach(a_worker("w1"), *resident(model))
    assign = only(scenario.submit(a_job("req_suspect", model)), SendAssign)
    loading(scenario, assign)
    again = only(dies(scenario, "w1", "second"), SendAssign)
    scenario.submit(a_job("req_next", model))
    commands = scenario.feed(
        AttemptFinished(
            again.worker_id, again.attempt_id, RequestId("req_suspect"), Outcome.SUCCEEDED, 5
        )
    )
    assert only(commands, SendAssign).job.request_id == "req_next"


def test_kills_are_known_after_a_restart_of_the_scheduler() -> None:
    scenario = Scenario(CoreSettings(max_attempts=10, poison_kills=3))
    lost = (WorkerId("w8"), WorkerId("w9"))
    scenario.feed(RequestRecovered(a_job(), 2, lost_on=frozenset(lost), killed_on=lost))
    assign = only(scenario.attach(a_worker("w1")), SendAssign)
    loading(scenario, assign)
    assert reason(dies(scenario, "w1", "second")) == "POISON_REQUEST"


def fails(scenario: Scenario, assign: SendAssign, why: Failure) -> list[Command]:
    """Its load does."""
    loading(scenario, assign)
    request_id = assign.job.request_id
    return scenario.feed(
        AttemptFinished(
            assign.worker_id, assign.attempt_id, request_id, Outcome.FAILED, 0, failure=why
        )
    )


def test_a_load_that_fails_on_one_worker_is_tried_on_another_for_free() -> None:
    scenario = Scenario()
    scenario.attach(a_worker("w1"))
    scenario.attach(a_worker("w2"))
    first = only(scenario.submit(a_job()), SendAssign)
    commands = fails(scenario, first, Failure("NOT_FOUND", "its folder is not there"))
    closed = only(commands, JournalEnd)
    assert closed.ledger is not None
    assert (closed.ledger.price_nanodollars, closed.ledger.waiver) == (0, "failed:not_found")
    assert isinstance(closed.then, Requeued)
    assert "its folder is not there" in closed.then.detail
    second = only(commands, SendAssign)
    assert second.worker_id != first.worker_id
    commands = fails(scenario, second, CORRUPT)
    assert reason(commands) == "SNAPSHOT_CORRUPT", "when nobody is left the last one's word counts"
    assert only(commands, TellEnd).end.receipt.attempts == 2


@pytest.mark.parametrize(
    ("job", "why"),
    [
        pytest.param(a_job(), Failure("INVALID_INPUT", "no LoRA"), id="the caller's fault"),
        pytest.param(
            dataclasses.replace(a_job(), attempts_max=1), CORRUPT, id="no second try is wanted"
        ),
    ],
)
def test_a_load_is_not_tried_again_for_nothing(job: Job, why: Failure) -> None:
    scenario = Scenario()
    scenario.attach(a_worker("w1"))
    scenario.attach(a_worker("w2"))
    assert reason(fails(scenario, only(scenario.submit(job), SendAssign), why)) == why.reason


def test_a_version_whose_load_fails_on_every_worker_is_quarantined() -> None:
    scenario = Scenario()
    scenario.attach(a_worker("w1"))
    assert not of_kind(failed_load(scenario, 1), JournalQuarantine)
    assert not of_kind(failed_load(scenario, 2), JournalQuarantine)
    waits = a_job("req_waits", a_model())
    commands = failed_load(scenario, 3)
    found = only(commands, JournalQuarantine).quarantine
    assert "load failed 3 times" in found.reason
    assert "block 3 differs" in found.reason
    refused = scenario.machine.admission_error(waits, scenario.now_ms)
    assert isinstance(refused, ModelQuarantined)
    assert "quickthaw endpoint release" in refused.message


def test_a_worker_on_which_it_has_not_failed_keeps_it_out_of_quarantine() -> None:
    scenario = Scenario()
    scenario.attach(a_worker("w1"))
    scenario.attach(a_worker("w2", free_gib=200, gpu_type="dear"))
    for number in range(1, 4):
        job = dataclasses.replace(a_job(f"req_{number}", worker_hint="w1"), attempts_max=1)
        assign = only(scenario.submit(job), SendAssign)
        if assign.worker_id != "w1":
            pytest.fail("the hint was not followed")
        loading(scenario, assign)
        commands = scenario.feed(
            AttemptFinished(
                WorkerId("w1"),
                AttemptId(f"req_{number}.1"),
                RequestId(f"req_{number}"),
                Outcome.FAILED,
                0,
                failure=CORRUPT,
            )
        )
        assert not of_kind(commands, JournalQuarantine)


def test_what_is_no_fault_of_the_model_does_not_count() -> None:
    scenario = Scenario()
    scenario.attach(a_worker("w1"))
    for number in range(1, 6):
        commands = failed_load(scenario, number, Failure("UNAVAILABLE", "the bucket is away"))
        assert not of_kind(commands, JournalQuarantine)


def test_a_run_in_between_clears_what_was_counted() -> None:
    scenario = Scenario()
    scenario.attach(a_worker("w1"))
    failed_load(scenario, 1)
    failed_load(scenario, 2)
    assign = only(scenario.submit(a_job("req_good")), SendAssign)
    scenario.feed(AttemptRunning(assign.worker_id, assign.attempt_id))
    scenario.feed(
        AttemptFinished(
            assign.worker_id, assign.attempt_id, RequestId("req_good"), Outcome.SUCCEEDED, 5
        )
    )
    assert not of_kind(failed_load(scenario, 3), JournalQuarantine)


def test_what_waits_for_a_quarantined_version_is_failed_with_it() -> None:
    scenario = Scenario(CoreSettings(quarantine_load_failures=1))
    scenario.attach(a_worker("w1"))
    assign = only(scenario.submit(a_job("req_1")), SendAssign)
    loading(scenario, assign)
    scenario.submit(a_job("req_2"))
    scenario.submit(a_job("req_3"))
    commands = scenario.feed(
        AttemptFinished(
            assign.worker_id,
            assign.attempt_id,
            RequestId("req_1"),
            Outcome.FAILED,
            0,
            failure=CORRUPT,
        )
    )
    ended = {end.job.request_id: end.end for end in of_kind(commands, TellEnd)}
    assert ended[RequestId("req_3")].state is RequestState.FAILED
    failure = ended[RequestId("req_3")].failure
    assert failure is not None
    assert failure.reason == "MODEL_QUARANTINED"


def test_a_quarantine_outlives_the_scheduler_and_ends_by_release_or_another_version() -> None:
    scenario = Scenario(CoreSettings(quarantine_load_failures=1))
    scenario.attach(a_worker("w1"))
    found = only(failed_load(scenario, 1), JournalQuarantine).quarantine
    after = Scenario()
    after.feed(QuarantineRecovered(found))
    after.attach(a_worker("w1"))
    assert isinstance(after.machine.admission_error(a_job("r2"), 0), ModelQuarantined)
    newer = a_model()
    object.__setattr__(newer, "snapshot_digest", "another")
    assert after.machine.admission_error(a_job("r3", newer), 0) is None
    commands = after.feed(QuarantineReleased(found.model))
    assert only(commands, JournalQuarantine).quarantine.reason == ""
    assert after.machine.admission_error(a_job("r2"), 0) is None


CRASHES = CoreSettings(crash=CrashPolicy(deaths=2, window_ms=60_000, pause_ms=1_000))


def test_a_worker_that_dies_again_and_again_pauses_longer_each_time() -> None:
    scenario = Scenario(CRASHES)
    worker_id = WorkerId("w1")
    pauses: list[int] = []
    worker = None
    for number in range(5):
        dies(scenario, "w1", f"boot-{number}")
        worker = scenario.machine.worker(worker_id)
        assert worker is not None
        until_ms = worker.backing_off_until_ms
        pauses.append(until_ms - scenario.now_ms if until_ms else 0)
    assert pauses == [0, 0, 1_000, 2_000, 4_000]
    assert worker is not None
    assert worker.state is WorkerState.BACKING_OFF
    assert worker.deaths == 4


def test_a_worker_that_backs_off_gets_nothing_until_its_time_has_come() -> None:
    scenario = Scenario(CRASHES)
    for number in range(3):
        dies(scenario, "w1", f"boot-{number}")
    assert not of_kind(scenario.submit(a_job()), SendAssign)
    told = scenario.machine.explain(RequestId("req_1"))[-1].refusals
    assert [r.reason for r in told] == ["backing_off"]
    assert only(scenario.wait(1_000), SendAssign).worker_id == "w1"


def test_an_operator_ends_the_pause_with_uncordon() -> None:
    scenario = Scenario(CRASHES)
    for number in range(3):
        dies(scenario, "w1", f"boot-{number}")
    scenario.submit(a_job())
    assert of_kind(scenario.feed(UncordonRequested(WorkerId("w1"))), SendAssign)


def test_a_worker_that_says_goodbye_did_not_die() -> None:
    scenario = Scenario(CRASHES)
    for number in range(6):
        scenario.feed(WorkerHello(a_worker("w1", incarnation=f"boot-{number}")))
        scenario.feed(WorkerGoodbye(WorkerId("w1")))
    scenario.attach(a_worker("w1", incarnation="last"))
    worker = scenario.machine.worker(WorkerId("w1"))
    assert worker is not None
    assert worker.state is WorkerState.READY
