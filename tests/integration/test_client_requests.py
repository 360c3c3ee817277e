"""Requests through the blocking client and a real socket."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import pytest

from quickthaw.client import (
    Client,
    Event,
    Finished,
    Priority,
    Progressed,
    RequestState,
    StateChanged,
    Tier,
)
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire import errors
from support import answers
from support.fake_platform import KEY, QUICK, FakePlatform, a_platform

Rig: TypeAlias = tuple[FakePlatform, Client]


@pytest.fixture
def rig() -> Iterator[tuple[FakePlatform, Client]]:
    with a_platform() as both:
        yield both


def accept(_message: inference_pb2.SubmitRequest) -> inference_pb2.SubmitResponse:
    return inference_pb2.SubmitResponse(
        request_id=answers.REQUEST_ID, state=types_pb2.REQUEST_STATE_QUEUED, queue_position=2
    )


async def watch_all(message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
    for event in answers.a_run():
        if event.sequence > message.after_sequence:
            yield event


def test_run_submits_follows_and_answers_with_the_ended_request(rig: Rig) -> None:
    platform, client = rig
    platform.scripts |= {"Submit": accept, "Watch": watch_all}
    seen: list[Event] = []
    request = client.run("quickthaw/shapes", {"prompt": "a red circle"}, on_event=seen.append)
    assert request.state is RequestState.SUCCEEDED
    assert request.receipt is not None
    assert request.receipt.start_tier is Tier.DISK
    assert request.receipt.price_nanodollars == 24_680
    assert [event.sequence for event in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert isinstance(seen[0], StateChanged)
    assert isinstance(seen[-1], Finished)


def test_the_key_and_every_option_reach_the_server(rig: Rig) -> None:
    platform, client = rig
    platform.scripts["Submit"] = accept
    submitted = client.submit(
        "shapes",
        {"seed": 7},
        priority=Priority.HIGH,
        worker_hint="worker-1",
        price_cap_nanodollars=5,
        second_worth_nanodollars=6,
        deadline_seconds=60,
    )
    assert submitted.queue_position == 2
    (message,) = platform.calls("Submit")
    assert platform.received[0].key == f"Key {KEY}"
    assert message.input_json == '{"seed":7}'
    assert message.priority == types_pb2.PRIORITY_HIGH
    assert (message.worker_hint, message.price_cap_nanodollars) == ("worker-1", 5)
    assert message.second_worth_nanodollars == 6
    assert message.deadline_unix_ms > 0


def test_a_submission_whose_answer_was_lost_is_repeated_under_the_same_key(rig: Rig) -> None:
    platform, client = rig
    lost = [errors.Unavailable("the connection broke after the journal had it")]

    def submit(message: inference_pb2.SubmitRequest) -> inference_pb2.SubmitResponse:
        if lost:
            raise lost.pop()
        return inference_pb2.SubmitResponse(request_id=answers.REQUEST_ID, deduplicated=True)

    platform.scripts["Submit"] = submit
    assert client.submit("shapes", {}).deduplicated
    first, second = platform.calls("Submit")
    assert first.idempotency_key
    assert first.idempotency_key == second.idempotency_key


def test_two_submissions_have_different_keys(rig: Rig) -> None:
    platform, client = rig
    platform.scripts["Submit"] = accept
    client.submit("shapes", {})
    client.submit("shapes", {})
    first, second = platform.calls("Submit")
    assert first.idempotency_key != second.idempotency_key


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidInput(
            "bad input",
            violations=(errors.FieldViolation("input.seed", "must be a whole number"),),
            metadata={"model": "shapes"},
        ),
        errors.ModelNotFound("no model shapes"),
        errors.Unauthenticated("unknown key"),
        errors.PermissionDenied("lacks the scope"),
        errors.ModelCannotFit("too large"),
        errors.BudgetExhausted("spent"),
        errors.StorageFull("disk full"),
        errors.DeadlineExpired("passed"),
        errors.AlreadyExists("used differently"),
        errors.Internal("incident 12"),
    ],
    ids=lambda error: error.reason,
)
def test_each_error_arrives_as_the_class_that_was_raised(
    rig: Rig, error: errors.QuickthawError
) -> None:
    platform, client = rig

    def refuse(_message: object) -> None:
        raise error

    platform.scripts["Submit"] = refuse
    with pytest.raises(errors.QuickthawError) as caught:
        client.submit("shapes", {})
    assert type(caught.value) is type(error)
    assert caught.value.message == error.message
    assert caught.value.violations == error.violations
    assert caught.value.metadata == error.metadata
    assert len(platform.calls("Submit")) == 1


def test_a_full_queue_is_waited_for_as_long_as_the_server_says(rig: Rig) -> None:
    platform, client = rig
    full = [errors.QueueFull("full", retry_delay_seconds=0.05)]

    def submit(message: inference_pb2.SubmitRequest) -> inference_pb2.SubmitResponse:
        if full:
            raise full.pop()
        return accept(message)

    platform.scripts["Submit"] = submit
    assert client.submit("shapes", {}).request_id == answers.REQUEST_ID


def test_a_failed_request_raises_what_it_failed_with(rig: Rig) -> None:
    platform, client = rig

    async def watch(_message: object) -> AsyncIterator[inference_pb2.Event]:
        yield answers.an_end(1, answers.a_failure("ENGINE_FAILED", "the model raised"))

    platform.scripts |= {"Submit": accept, "Watch": watch}
    with pytest.raises(errors.EngineFailed, match="the model raised") as caught:
        client.run("shapes", {})
    assert caught.value.metadata["request_id"] == answers.REQUEST_ID
    assert platform.calls("Cancel") == []
    request = client.run("shapes", {}, raise_for_failure=False)
    assert request.state is RequestState.FAILED


def test_a_watch_goes_on_after_the_server_restarts(rig: Rig) -> None:
    platform, client = rig
    seen: list[int] = []

    async def before(message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
        yield answers.a_change(1, types_pb2.REQUEST_STATE_RUNNING)
        yield answers.a_step(2, 1)
        await platform.event().wait()

    async def after(message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
        # A replay that overlaps what was seen must not reach the caller twice.
        for event in (answers.a_step(2, 1), answers.a_step(3, 2), answers.an_end(9)):
            yield event

    platform.scripts["Watch"] = before
    for event in client.watch(answers.REQUEST_ID):
        seen.append(event.sequence)
        if event.sequence == 2:
            platform.stop()
            platform.scripts["Watch"] = after
            platform.start()
    assert seen == [1, 2, 3, 9]
    assert [m.after_sequence for m in platform.calls("Watch")] == [0, 2]


def test_a_watch_that_ends_before_the_request_is_taken_up_again(rig: Rig) -> None:
    platform, client = rig

    async def watch(message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
        if message.after_sequence == 0:
            yield answers.a_step(1, 1)
        else:
            yield answers.an_end(2)

    platform.scripts["Watch"] = watch
    assert [type(e) for e in client.watch(answers.REQUEST_ID)] == [Progressed, Finished]


def test_a_watch_can_begin_in_the_middle(rig: Rig) -> None:
    platform, client = rig
    platform.scripts["Watch"] = watch_all
    assert [e.sequence for e in client.watch("r", after_sequence=5)] == [6, 7]


def test_leaving_a_watch_early_ends_its_stream_on_the_server(rig: Rig) -> None:
    platform, client = rig
    ended = platform.event()

    async def watch(_message: object) -> AsyncIterator[inference_pb2.Event]:
        try:
            yield answers.a_step(1, 1)
            await platform.event().wait()
        finally:
            ended.set()

    platform.scripts["Watch"] = watch
    events = client.watch("r")
    assert next(events).sequence == 1
    events.close()
    platform.wait_for(ended)


def test_running_for_too_long_cancels_the_request(rig: Rig) -> None:
    platform, client = rig

    async def watch(_message: object) -> AsyncIterator[inference_pb2.Event]:
        yield answers.a_step(1, 1)
        await platform.event().wait()

    platform.scripts |= {
        "Submit": accept,
        "Watch": watch,
        "Cancel": lambda _: inference_pb2.CancelResponse(),
    }
    with pytest.raises(errors.DeadlineExpired, match=answers.REQUEST_ID):
        client.run("shapes", {}, timeout_seconds=2)
    assert [m.request_id for m in platform.calls("Cancel")] == [answers.REQUEST_ID]


def test_an_interrupted_run_cancels_the_request_and_tells_the_interruption(rig: Rig) -> None:
    platform, client = rig

    def interrupt(_event: Event) -> None:
        raise KeyboardInterrupt

    platform.scripts |= {
        "Submit": accept,
        "Watch": watch_all,
        "Cancel": lambda _: inference_pb2.CancelResponse(),
    }
    with pytest.raises(KeyboardInterrupt):
        client.run("shapes", {}, on_event=interrupt)
    assert [m.request_id for m in platform.calls("Cancel")] == [answers.REQUEST_ID]


def test_an_unreachable_server_leaves_the_request_alone_and_names_it(rig: Rig) -> None:
    platform, client = rig

    async def watch(_message: object) -> AsyncIterator[inference_pb2.Event]:
        raise errors.Unavailable("shutting down")
        yield

    platform.scripts |= {"Submit": accept, "Watch": watch}
    with pytest.raises(errors.Unavailable) as caught:
        client.run("shapes", {})
    assert caught.value.metadata["request_id"] == answers.REQUEST_ID
    assert platform.calls("Cancel") == []


def test_nobody_listening_is_unavailable_with_the_address() -> None:
    with (
        Client("127.0.0.1:9", KEY, context=QUICK) as client,
        pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:9"),
    ):
        client.get("r")


def test_a_server_that_does_not_answer_is_unavailable_in_time(rig: Rig) -> None:
    platform, _ = rig
    quick = type(QUICK)(retry=type(QUICK.retry)(attempts_max=1), call_timeout_seconds=0.2)

    async def never(_message: object) -> None:
        await platform.event().wait()

    platform.scripts["Get"] = never
    with (
        Client(platform.address, KEY, context=quick) as client,
        pytest.raises(errors.Unavailable, match=r"within 0\.2 s"),
    ):
        client.get("r")


def test_lists_are_fetched_page_by_page_and_only_as_far_as_asked(rig: Rig) -> None:
    platform, client = rig

    def page(message: inference_pb2.ListRequestsRequest) -> inference_pb2.ListRequestsResponse:
        start = int(message.page.token or 0)
        size = message.page.size
        return inference_pb2.ListRequestsResponse(
            requests=[answers.a_request(request_id=f"r{n}") for n in range(start, start + size)],
            next_page_token=str(start + size) if start + size < 1000 else "",
        )

    platform.scripts["List"] = page
    found = list(client.list(limit=150, states=[RequestState.FAILED], model="shapes"))
    assert [r.request_id for r in found] == [f"r{n}" for n in range(150)]
    first, second = platform.calls("List")
    assert (first.page.size, second.page.size) == (100, 50)
    assert list(first.states) == [types_pb2.REQUEST_STATE_FAILED]
    assert next(iter(client.list())).request_id == "r0"


def test_a_closed_client_says_so(rig: Rig) -> None:
    _, client = rig
    client.close()
    with pytest.raises(errors.FailedPrecondition, match="closed"):
        client.get("r")


def test_an_input_over_the_message_limit_is_told_as_such(rig: Rig) -> None:
    platform, client = rig
    platform.scripts["Submit"] = accept
    with pytest.raises(errors.MessageTooLarge, match=r"^Sent message larger than max"):
        client.submit("shapes", {"prompt": "x" * (9 << 20)})


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e300])
def test_a_deadline_that_is_no_time_is_refused_by_name(rig: Rig, seconds: float) -> None:
    _, client = rig
    with pytest.raises(errors.InvalidArgument, match="deadline_seconds"):
        client.submit("shapes", {"prompt": "x"}, deadline_seconds=seconds)
