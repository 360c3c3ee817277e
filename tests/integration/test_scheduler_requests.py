"""Requests through a real scheduler, with a scripted worker on a real stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker, now_ms
from support.patience import PATIENCE_SECONDS
from support.schedulers import Running, a_model, a_scheduler, submission

QUEUED = types_pb2.REQUEST_STATE_QUEUED
PLACED = types_pb2.REQUEST_STATE_PLACED
LOADING = types_pb2.REQUEST_STATE_LOADING
RUNNING = types_pb2.REQUEST_STATE_RUNNING
SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED
FAILED = types_pb2.REQUEST_STATE_FAILED
CANCELLED = types_pb2.REQUEST_STATE_CANCELLED


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data", models=[a_model(), a_model("test/other")]) as running:
        yield running


@pytest.fixture
async def worker(running: Running) -> AsyncIterator[FakeWorker]:
    async with FakeWorker(running.address, running.worker_key) as worker:
        yield worker


async def ledger(running: Running, request_id: str) -> list[billing_pb2.LedgerLine]:
    answer = await running.admin.billing.ListLedger(
        billing_pb2.ListLedgerRequest(request_id=request_id)
    )
    return list(answer.lines)


async def refusal(call: Awaitable[object]) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def watched(running: Running, request_id: str) -> list[inference_pb2.Event]:
    call = running.admin.inference.Watch(inference_pb2.WatchRequest(request_id=request_id))
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [event async for event in call]


async def test_a_request_goes_through_every_state_to_a_receipt_that_equals_its_bill(
    running: Running, worker: FakeWorker
) -> None:
    request_id = await running.admin.submit()
    assign = await worker.next_assign()
    assert json.loads(assign.input_json) == {
        "prompt": "a red circle",
        "num_images": 1,
        "image_size": {"width": 64, "height": 64},
    }
    assert (assign.family, assign.snapshot_uri) == ("sd", "/snapshots/tiny")
    worker.loading(assign.attempt_id)
    worker.running(assign.attempt_id, load_ms=120)
    worker.progress(assign.attempt_id, 1, 4)
    worker.finish(assign, metered_ms=1_234, output_json='{"seed": 5}')
    events = await watched(running, request_id)
    assert [event.state_change.state for event in events if event.HasField("state_change")] == [
        QUEUED,
        PLACED,
        LOADING,
        RUNNING,
    ]
    assert [event.progress.step for event in events if event.HasField("progress")] == [1]
    finished = events[-1].finished
    assert (finished.state, finished.output_json) == (SUCCEEDED, '{"seed": 5}')
    [line] = await ledger(running, request_id)
    receipt = finished.receipt
    assert (receipt.run_ms, receipt.billed_ms) == (1_234, 1_234)
    assert (line.metered_ms, line.billed_ms) == (1_234, 1_234)
    assert line.price_nanodollars == receipt.price_nanodollars == 1_234 * 20_000 // 1_000
    assert line.price_version == receipt.price_version
    assert await running.admin.inference.Get(inference_pb2.GetRequest(request_id=request_id)) == (
        finished
    )
    await worker.until_acknowledged(assign.attempt_id)


async def test_run_answers_with_the_terminal_request_also_when_it_failed(
    running: Running, worker: FakeWorker
) -> None:
    call = running.admin.inference.Run(submission())
    assign = await worker.next_assign()
    worker.running(assign.attempt_id)
    failure = types_pb2.Failure(
        reason="ENGINE_FAILED",
        message="out of memory in step 3",
        violations=[types_pb2.FieldViolation(field="input.prompt", description="odd")],
    )
    worker.finish(assign, "failed", metered_ms=77, failure=failure)
    finished = await call
    assert finished.state == FAILED
    assert finished.failure == failure
    [line] = await ledger(running, finished.request_id)
    assert (line.metered_ms, line.billed_ms, line.waiver) == (77, 0, "failed:engine_failed")
    assert finished.receipt.waiver == line.waiver


async def test_a_caller_of_run_that_goes_away_cancels_its_request(
    running: Running, worker: FakeWorker
) -> None:
    call = running.admin.inference.Run(submission())
    assign = await worker.next_assign()
    worker.running(assign.attempt_id)
    call.cancel()
    cancel = await worker.next_cancel()
    assert cancel.attempt_id == assign.attempt_id
    worker.finish(assign, "cancelled", metered_ms=10)
    finished = await running.admin.until_ended(assign.request_id)
    assert finished.state == CANCELLED


async def test_a_queued_request_is_cancelled_at_once(running: Running) -> None:
    request_id = await running.admin.submit()
    answer = await running.admin.inference.Cancel(
        inference_pb2.CancelRequest(request_id=request_id)
    )
    assert answer.state == CANCELLED
    finished = await running.admin.until_ended(request_id)
    assert finished.failure.reason == "CANCELLED"
    assert await ledger(running, request_id) == []


@pytest.mark.parametrize("state", [PLACED, LOADING, RUNNING])
async def test_a_held_request_is_cancelled_when_its_worker_says_so(
    running: Running, worker: FakeWorker, state: types_pb2.RequestState.ValueType
) -> None:
    request_id = await running.admin.submit()
    assign = await worker.next_assign()
    if state in (LOADING, RUNNING):
        worker.loading(assign.attempt_id)
    if state == RUNNING:
        worker.running(assign.attempt_id)
    await running.admin.until_state(request_id, state)
    for _ in range(2):
        answer = await running.admin.inference.Cancel(
            inference_pb2.CancelRequest(request_id=request_id)
        )
        assert answer.state == state
    cancel = await worker.next_cancel()
    assert cancel.attempt_id == assign.attempt_id
    metered_ms = 60 if state == RUNNING else 0
    worker.finish(assign, "cancelled", metered_ms=metered_ms)
    finished = await running.admin.until_ended(request_id)
    assert (finished.state, finished.receipt.billed_ms) == (CANCELLED, metered_ms)
    again = await running.admin.inference.Cancel(inference_pb2.CancelRequest(request_id=request_id))
    assert again.state == CANCELLED


async def test_a_request_that_cannot_start_before_its_deadline_fails_with_it(
    running: Running,
) -> None:
    deadline = now_ms() + 200
    finished = await running.admin.inference.Run(submission(deadline_unix_ms=deadline))
    assert (finished.state, finished.failure.reason) == (FAILED, "DEADLINE_EXPIRED")
    assert finished.finished_unix_ms >= deadline
    assert await ledger(running, finished.request_id) == []


async def test_a_running_request_is_stopped_at_its_deadline_and_not_billed(
    running: Running, worker: FakeWorker
) -> None:
    request_id = await running.admin.submit(deadline_unix_ms=now_ms() + 2_500)
    assign = await worker.next_assign()
    worker.running(assign.attempt_id)
    cancel = await worker.next_cancel()
    assert cancel.attempt_id == assign.attempt_id
    worker.finish(assign, "cancelled", metered_ms=500)
    finished = await running.admin.until_ended(request_id)
    assert (finished.state, finished.failure.reason) == (FAILED, "DEADLINE_EXPIRED")
    assert (finished.receipt.billed_ms, finished.receipt.run_ms) == (0, 500)


async def test_a_deadline_in_the_past_is_refused(running: Running) -> None:
    error = await refusal(
        running.admin.inference.Submit(submission(deadline_unix_ms=now_ms() - 1_000))
    )
    assert isinstance(error, errors.DeadlineExpired)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"model": "test/tinny"}, errors.ModelNotFound, "did you mean test/tiny"),
        ({"model": ""}, errors.InvalidArgument, "model is required"),
        ({"input_json": "{}"}, errors.InvalidInput, "input.prompt is required"),
        ({"input_json": '{"prompt": 1}'}, errors.InvalidInput, "must be of type string"),
        (
            {"input_json": '{"prompt": "x", "image_size": {"width": 8}}'},
            errors.InvalidInput,
            "input.image_size.width must be at least 64",
        ),
        (
            {"input_json": json.dumps({"prompt": "x" * 201})},
            errors.InvalidInput,
            "at most 200 characters",
        ),
        ({"priority": 9}, errors.InvalidArgument, "priority"),
        ({"deadline_unix_ms": -5}, errors.InvalidArgument, "deadline_unix_ms"),
        ({"idempotency_key": "k" * 129}, errors.InvalidArgument, "idempotency_key"),
        ({"files_kept_ms": 10**12}, errors.InvalidArgument, "files_kept_ms"),
        ({"worker_hint": "a\0b"}, errors.InvalidArgument, "worker_hint"),
    ],
)
async def test_a_submission_that_cannot_be_meant_says_what_is_wrong(
    running: Running,
    fields: dict[str, object],
    kind: type[errors.QuickthawError],
    words: str,
) -> None:
    model = str(fields.pop("model", "test/tiny"))
    error = await refusal(running.admin.inference.Submit(submission(model, **fields)))
    assert type(error) is kind
    assert words in error.message


async def test_the_same_idempotency_key_is_one_request(
    running: Running, worker: FakeWorker
) -> None:
    message = submission(idempotency_key="order-1")
    answers = await asyncio.gather(*(running.admin.inference.Submit(message) for _ in range(5)))
    assert len({answer.request_id for answer in answers}) == 1
    assert sorted(answer.deduplicated for answer in answers) == [False, True, True, True, True]
    worker.finish(await worker.next_assign())
    finished = await running.admin.until_ended(answers[0].request_id)
    again = await running.admin.inference.Submit(message)
    assert (again.request_id, again.state) == (finished.request_id, SUCCEEDED)
    assert await running.admin.inference.Run(message) == finished
    error = await refusal(
        running.admin.inference.Submit(
            submission(idempotency_key="order-1", input_json='{"prompt": "a blue square"}')
        )
    )
    assert isinstance(error, errors.AlreadyExists)


async def test_a_model_that_no_worker_could_ever_hold_is_refused(
    running: Running, worker: FakeWorker
) -> None:
    huge = a_model("test/huge", size_bytes=1 << 40)
    await running.admin.catalog.Register(catalog_pb2.RegisterRequest(model=huge))
    for call in (running.admin.inference.Submit, running.admin.inference.Quote):
        assert isinstance(await refusal(call(submission("test/huge"))), errors.ModelCannotFit)


async def test_a_quote_says_where_and_how_much_and_reserves_nothing(
    running: Running, worker: FakeWorker
) -> None:
    quote = await running.admin.inference.Quote(submission())
    assert quote.worker_id == "worker-1"
    assert quote.rate_nanodollars_per_second == 20_000
    assert quote.run_seconds.p95 >= quote.run_seconds.p50 > 0
    answer = await running.admin.inference.List(inference_pb2.ListRequestsRequest())
    assert list(answer.requests) == []


async def test_requests_are_listed_newest_first_by_page_state_and_model(running: Running) -> None:
    made = [await running.admin.submit() for _ in range(3)]
    made.append(await running.admin.submit("other"))
    await running.admin.inference.Cancel(inference_pb2.CancelRequest(request_id=made[0]))

    async def page(**fields: object) -> tuple[list[str], str]:
        message = inference_pb2.ListRequestsRequest(**fields)  # type: ignore[arg-type] # by name
        answer = await running.admin.inference.List(message)
        return [each.request_id for each in answer.requests], answer.next_page_token

    first, token = await page(page=types_pb2.Page(size=3))
    rest, last = await page(page=types_pb2.Page(size=3, token=token))
    assert first + rest == made[::-1]
    assert last == ""
    assert (await page(states=[CANCELLED]))[0] == made[:1]
    assert (await page(model="other"))[0] == made[3:]
    positions = await running.admin.inference.List(
        inference_pb2.ListRequestsRequest(states=[QUEUED])
    )
    assert sorted(each.queue_position for each in positions.requests) == [0, 1, 2]


async def test_a_watch_resumes_after_the_last_event_that_was_seen(
    running: Running, worker: FakeWorker
) -> None:
    request_id = await running.admin.submit()
    assign = await worker.next_assign()
    worker.running(assign.attempt_id)
    worker.finish(assign)
    events = await watched(running, request_id)
    for index, event in enumerate(events):
        call = running.admin.inference.Watch(
            inference_pb2.WatchRequest(request_id=request_id, after_sequence=event.sequence)
        )
        resumed = [each async for each in call]
        assert resumed[: len(events) - index - 1] == events[index + 1 :]
        assert resumed[-1].HasField("finished")


@pytest.mark.parametrize("sequence", [-1, 2**63 - 1])
async def test_a_place_that_no_event_can_have_is_refused(running: Running, sequence: int) -> None:
    request = inference_pb2.WatchRequest(
        request_id=await running.admin.submit(), after_sequence=sequence
    )
    call = running.admin.inference.Watch(request)
    error = await refusal(call.read())
    assert isinstance(error, errors.InvalidArgument)
    assert str(sequence) in error.message


async def test_progress_of_an_attempt_that_is_not_the_current_one_is_not_told(
    running: Running, worker: FakeWorker
) -> None:
    request_id = await running.admin.submit()
    assign = await worker.next_assign()
    worker.running(assign.attempt_id)
    worker.progress(f"{request_id}.7", 1, 4)
    worker.progress("req_unknown.1", 1, 4)
    worker.progress(assign.attempt_id, 2, 4)
    worker.finish(assign)
    events = await watched(running, request_id)
    assert [event.progress.step for event in events if event.HasField("progress")] == [2]


async def test_explain_tells_the_decision_of_each_attempt(
    running: Running, worker: FakeWorker
) -> None:
    request_id = await running.admin.submit()
    worker.finish(await worker.next_assign())
    await running.admin.until_ended(request_id)
    answer = await running.admin.fleet.Explain(fleet_pb2.ExplainRequest(request_id=request_id))
    [decision] = answer.decisions
    assert decision.chosen_worker_id == "worker-1"
    assert decision.candidates[0].score_seconds > 0
