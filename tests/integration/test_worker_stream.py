"""The worker's connection to the scheduler, over a real socket, with runs that need no model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quickthaw.v1 import types_pb2
from support.fake_scheduler import FakeScheduler
from support.workers import RunningWorker, a_worker

SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
FAILED = types_pb2.REQUEST_STATE_FAILED
CANCELLED = types_pb2.REQUEST_STATE_CANCELLED
RUNNING = types_pb2.REQUEST_STATE_RUNNING
FOREVER = '{"run_ms": 600000}'


@pytest.fixture
async def worker(scheduler: FakeScheduler, tmp_path: Path) -> AsyncIterator[RunningWorker]:
    async with a_worker(scheduler, tmp_path, "--families", "noop", "--label", "zone=a") as worker:
        yield worker


async def test_hello_says_what_the_worker_is(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    hello = session.hello
    assert (hello.worker_id, hello.gpu_type, hello.concurrency) == ("w1", "cpu", 1)
    assert dict(hello.labels) == {"zone": "a"}
    assert hello.vram_bytes > 0
    assert hello.pinned_bytes > 0
    assert hello.incarnation
    await worker.ready.wait()
    assert worker.metric("stream_connected") == 1


async def test_an_attempt_is_told_of_from_loading_to_its_end(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", input_json='{"run_ms": 20, "echo": "x"}')
    end = await session.finished("a1")
    kinds = [m.WhichOneof("kind") for m in session.received if m.WhichOneof("kind") != "heartbeat"]
    assert kinds == ["loading", "running", "event", "finished"]
    assert end.outcome == SUCCEEDED
    assert end.request_id == "request-of-a1"
    assert end.output_json == '{"run_ms": 20, "echo": "x"}'
    assert 20 <= end.metered_ms < 60_000


async def test_attempts_beyond_the_concurrency_wait_with_their_meter_closed(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", input_json=FOREVER)
    session.assign("a2", input_json=FOREVER)
    await session.next("loading", "a2")
    session.cancel("a1")
    assert (await session.finished("a1")).outcome == CANCELLED
    await session.next("running", "a2")
    session.cancel("a2")
    await session.finished("a2")
    order = [
        (m.WhichOneof("kind"), getattr(m, m.WhichOneof("kind") or "").attempt_id)
        for m in session.received
        if m.WhichOneof("kind") in ("running", "finished")
    ]
    assert order.index(("finished", "a1")) < order.index(("running", "a2"))


async def test_a_cancelled_run_ends_with_what_it_ran_metered(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", input_json=FOREVER)
    await session.next("running", "a1")
    beat = (await session.next("heartbeat")).heartbeat
    while not beat.attempts or beat.attempts[0].metered_ms == 0:
        beat = (await session.next("heartbeat")).heartbeat
    assert beat.attempts[0].state == RUNNING
    session.cancel("a1", "enough")
    end = await session.finished("a1")
    assert end.outcome == CANCELLED
    assert end.metered_ms >= beat.attempts[0].metered_ms
    assert (end.failure.reason, end.failure.message) == ("CANCELLED", "enough")


async def test_a_run_survives_a_broken_stream_and_its_end_is_delivered_on_the_next(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    first = await scheduler.welcomed()
    first.assign("a1", input_json=FOREVER)
    await first.next("running", "a1")
    first.hang_up()
    second = await scheduler.welcomed()
    assert second.hello.incarnation == first.hello.incarnation
    assert [(a.attempt_id, a.state) for a in second.hello.attempts] == [("a1", RUNNING)]
    second.cancel("a1")
    await second.finished("a1")
    assert len(second.seen("finished", "a1")) == 1
    assert worker.metric("stream_reconnects_total") == 1


async def test_an_end_is_sent_again_until_acknowledged_and_then_forgotten(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    first = await scheduler.attached()
    first.acknowledge_ends = False
    first.welcome()
    first.assign("a1", input_json="{}")
    end = await first.finished("a1")
    first.hang_up()

    second = await scheduler.welcomed()
    assert [(a.attempt_id, a.state) for a in second.hello.attempts] == [("a1", SUCCEEDED)]
    assert await second.finished("a1") == end  # acknowledged this time
    await second.next("heartbeat")
    second.hang_up()

    third = await scheduler.welcomed()
    assert not third.hello.attempts
    third.assign("a2", input_json="{}")
    await third.finished("a2")
    assert not third.seen("finished", "a1")


async def test_an_end_that_comes_while_there_is_no_stream_is_not_lost(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    first = await scheduler.welcomed()
    first.assign("a1", input_json='{"run_ms": 50}')
    await first.next("running", "a1")
    await scheduler.stop()
    while worker.metric("run_seconds_count") < 1:
        await worker_changed(worker)
    await scheduler.start()
    second = await scheduler.welcomed()
    end = await second.finished("a1")
    assert end.outcome == SUCCEEDED
    assert len(second.seen("finished", "a1")) == 1


async def worker_changed(worker: RunningWorker) -> None:
    shell = worker.worker.shell
    shell.changed.clear()
    await shell.changed.wait()


async def test_attempts_revoked_by_welcome_are_stopped_and_never_spoken_of_again(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    first = await scheduler.attached()
    first.acknowledge_ends = False
    first.welcome()
    first.assign("ended", input_json="{}")
    await first.finished("ended")
    first.assign("runs", input_json=FOREVER)
    await first.next("running", "runs")
    first.hang_up()
    second = await scheduler.attached()
    assert {a.attempt_id for a in second.hello.attempts} == {"ended", "runs"}
    second.welcome(revoked=("ended", "runs"))
    # The slot is free again only once the revoked run has really stopped.
    second.assign("next", input_json="{}")
    assert (await second.finished("next")).outcome == SUCCEEDED
    assert not second.seen("finished", "ended")
    assert not second.seen("finished", "runs")
    second.hang_up()
    third = await scheduler.welcomed()
    assert not third.hello.attempts


async def test_attempts_revoked_by_a_heartbeats_answer_are_stopped(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    from quickthaw.v1 import fleet_pb2

    session = await scheduler.welcomed()
    session.assign("a1", input_json=FOREVER)
    await session.next("running", "a1")
    beat = (await session.next("heartbeat")).heartbeat
    session.send(
        heartbeat_ack=fleet_pb2.HeartbeatAck(sequence=beat.sequence, revoked_attempt_ids=["a1"])
    )
    session.assign("a2", input_json="{}")
    await session.finished("a2")
    assert not session.seen("finished", "a1")


async def test_a_worker_that_hears_nothing_for_a_lease_stops_its_runs(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.attached()
    session.acknowledge_heartbeats = False
    session.welcome(lease_ms=1_000, heartbeat_ms=50)
    session.assign("a1", input_json=FOREVER)
    await session.next("running", "a1")
    second = await scheduler.welcomed()  # the silent stream is given up as well
    assert not second.hello.attempts
    second.assign("a2", input_json="{}")
    assert (await second.finished("a2")).outcome == SUCCEEDED
    assert not second.seen("finished", "a1")


async def test_acknowledged_heartbeats_keep_a_run_alive_beyond_one_lease(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed(lease_ms=2_000)
    session.assign("a1", input_json='{"run_ms": 3000}')
    end = await session.finished("a1")
    assert end.outcome == SUCCEEDED
    assert end.metered_ms >= 3000


async def test_a_lease_runs_out_although_the_scheduler_is_gone(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed(lease_ms=1_000)
    session.assign("a1", input_json=FOREVER)
    await session.next("running", "a1")
    await scheduler.stop()
    while worker.worker.shell.machine.statuses(0.0):
        await worker_changed(worker)
    await scheduler.start()
    assert not (await scheduler.welcomed()).hello.attempts


async def test_an_assignment_said_twice_runs_once(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", input_json='{"run_ms": 30}')
    session.assign("a1", input_json='{"run_ms": 30}')
    await session.finished("a1")
    session.assign("a2", input_json="{}")
    await session.finished("a2")
    assert len(session.seen("finished", "a1")) == 1


async def test_an_assignment_past_its_deadline_fails_without_running(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", input_json=FOREVER, deadline_unix_ms=1)
    end = await session.finished("a1")
    assert (end.outcome, end.failure.reason) == (FAILED, "DEADLINE_EXPIRED")
    assert end.metered_ms == 0


@pytest.mark.parametrize(
    ("input_json", "told"),
    [
        ("not json", "is not JSON"),
        ('{"run_ms": "soon"}', "must be a number"),
        ('{"run_ms": -1}', "must lie between"),
    ],
)
async def test_bad_input_fails_with_its_reason(
    scheduler: FakeScheduler, worker: RunningWorker, input_json: str, told: str
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", input_json=input_json)
    end = await session.finished("a1")
    assert (end.outcome, end.failure.reason) == (FAILED, "INVALID_INPUT")
    assert told in end.failure.message
    assert not end.failure.retryable
    assert worker.metric("errors_total", reason="INVALID_INPUT") == 1


async def test_a_family_that_the_worker_does_not_run_is_refused_by_name(
    scheduler: FakeScheduler, worker: RunningWorker
) -> None:
    session = await scheduler.welcomed()
    session.assign("a1", family="sdxl")
    end = await session.finished("a1")
    assert (end.outcome, end.failure.reason) == (FAILED, "FAILED_PRECONDITION")
    assert "'sdxl'" in end.failure.message


async def test_a_worker_holds_no_more_attempts_than_it_was_told(
    scheduler: FakeScheduler, tmp_path: Path
) -> None:
    async with a_worker(scheduler, tmp_path, "--families", "noop", "--attempts-max", "2"):
        session = await scheduler.welcomed()
        for name in ("a1", "a2", "a3"):
            session.assign(name, input_json=FOREVER)
        end = await session.finished("a3")
        assert (end.outcome, end.failure.reason) == (FAILED, "QUEUE_FULL")
        assert end.failure.retryable


async def test_many_attempts_at_once_each_end_exactly_once(
    scheduler: FakeScheduler, tmp_path: Path
) -> None:
    flags = ("--families", "noop", "--concurrency", "32", "--attempts-max", "1000")
    async with a_worker(scheduler, tmp_path, *flags):
        session = await scheduler.welcomed()
        names = [f"a{index}" for index in range(500)]
        for name in names:
            session.assign(name, input_json="{}")
        for name in names:
            assert (await session.finished(name)).outcome == SUCCEEDED
        assert len(session.seen("finished")) == len(names)
