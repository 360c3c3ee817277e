"""The asyncio client and the realtime session over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeAlias

import pytest

from quickthaw.client import AsyncClient, Event, Finished, RealtimeEvent, RealtimeRefused
from quickthaw.v1 import catalog_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors
from support import answers
from support.fake_platform import KEY, QUICK, FakePlatform

Rig: TypeAlias = tuple[FakePlatform, AsyncClient]


@pytest.fixture
async def rig() -> AsyncIterator[tuple[FakePlatform, AsyncClient]]:
    with FakePlatform() as platform:
        async with AsyncClient(platform.address, KEY, context=QUICK) as client:
            yield platform, client


def accept(_message: inference_pb2.SubmitRequest) -> inference_pb2.SubmitResponse:
    return inference_pb2.SubmitResponse(request_id=answers.REQUEST_ID)


async def watch_all(_message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
    for event in answers.a_run():
        yield event


async def test_run_awaits_a_callback_that_is_a_coroutine(rig: Rig) -> None:
    platform, client = rig
    platform.scripts |= {"Submit": accept, "Watch": watch_all}
    seen: list[int] = []

    async def take(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.sequence)

    request = await client.run("shapes", {"prompt": "a red circle"}, on_event=take)
    assert request.request_id == answers.REQUEST_ID
    assert seen == [1, 2, 3, 4, 5, 6, 7]


async def test_cancelling_the_task_that_awaits_a_run_cancels_the_request(rig: Rig) -> None:
    platform, client = rig
    running = asyncio.Event()

    async def watch(_message: object) -> AsyncIterator[inference_pb2.Event]:
        yield answers.a_step(1, 1)
        await platform.event().wait()

    platform.scripts |= {
        "Submit": accept,
        "Watch": watch,
        "Cancel": lambda _: inference_pb2.CancelResponse(),
    }
    task = asyncio.create_task(client.run("shapes", {}, on_event=lambda _: running.set()))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [m.request_id for m in platform.calls("Cancel")] == [answers.REQUEST_ID]


async def test_a_watch_goes_on_after_the_server_restarts(rig: Rig) -> None:
    platform, client = rig

    async def before(_message: object) -> AsyncIterator[inference_pb2.Event]:
        yield answers.a_step(1, 1)
        await platform.event().wait()

    async def after(message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
        yield answers.an_end(message.after_sequence + 1)

    platform.scripts["Watch"] = before
    seen = []
    async for event in client.watch(answers.REQUEST_ID):
        seen.append(event.sequence)
        if not isinstance(event, Finished):
            await asyncio.to_thread(platform.stop)
            platform.scripts["Watch"] = after
            await asyncio.to_thread(platform.start)
    assert seen == [1, 2]


async def test_closing_a_watch_ends_its_stream_on_the_server(rig: Rig) -> None:
    platform, client = rig
    ended = platform.event()

    async def watch(_message: object) -> AsyncIterator[inference_pb2.Event]:
        try:
            yield answers.a_step(1, 1)
            await platform.event().wait()
        finally:
            ended.set()

    platform.scripts["Watch"] = watch
    async with aclosing(client.watch("r")) as events:
        assert (await anext(events)).sequence == 1
    await asyncio.to_thread(platform.wait_for, ended)


async def test_errors_are_the_same_classes_as_the_blocking_clients(rig: Rig) -> None:
    platform, client = rig

    def refuse(_message: object) -> None:
        raise errors.ModelNotFound("no model", metadata={"near": "shapes"})

    platform.scripts["GetModel"] = refuse
    with pytest.raises(errors.ModelNotFound) as caught:
        await client.models.get("shape")
    assert caught.value.metadata == {"near": "shapes"}


async def test_models_are_listed_over_several_pages(rig: Rig) -> None:
    platform, client = rig

    def page(message: catalog_pb2.ListModelsRequest) -> catalog_pb2.ListModelsResponse:
        last = bool(message.page.token)
        name = "b/two" if last else "a/one"
        return catalog_pb2.ListModelsResponse(
            models=[answers.a_model(name)], next_page_token="" if last else "next"
        )

    platform.scripts["ListModels"] = page
    assert [m.id async for m in client.models.list()] == ["a/one", "b/two"]


async def test_a_realtime_session_answers_each_tag_and_tells_refusals(rig: Rig) -> None:
    platform, client = rig

    async def session(
        messages: AsyncIterator[inference_pb2.RealtimeRequest],
    ) -> AsyncIterator[inference_pb2.RealtimeResponse]:
        async for message in messages:
            if message.submit.model == "shapes":
                yield inference_pb2.RealtimeResponse(tag=message.tag, event=answers.an_end(1))
            else:
                refused = types_pb2.Failure(reason="MODEL_NOT_FOUND", message="no")
                yield inference_pb2.RealtimeResponse(tag=message.tag, refused=refused)

    platform.scripts["Realtime"] = session
    async with client.realtime() as realtime:
        await realtime.send("one", "shapes", {"prompt": "x"})
        await realtime.send("two", "unknown")
        await realtime.done_sending()
        first, second = [answer async for answer in realtime]
    assert isinstance(first, RealtimeEvent)
    assert (first.tag, type(first.event)) == ("one", Finished)
    assert isinstance(second, RealtimeRefused)
    assert (second.tag, second.failure.reason) == ("two", "MODEL_NOT_FOUND")


async def test_a_session_sends_no_key_but_its_caller_s(rig: Rig) -> None:
    """With one the server writes each input down before it begins."""
    platform, client = rig
    keys: list[str] = []

    async def session(
        messages: AsyncIterator[inference_pb2.RealtimeRequest],
    ) -> AsyncIterator[inference_pb2.RealtimeResponse]:
        async for message in messages:
            keys.append(message.submit.idempotency_key)
            yield inference_pb2.RealtimeResponse(tag=message.tag, event=answers.an_end(1))

    platform.scripts["Realtime"] = session
    async with client.realtime() as realtime:
        await realtime.send("one", "shapes")
        await realtime.send("two", "shapes", idempotency_key="mine")
        await realtime.done_sending()
        assert len([answer async for answer in realtime]) == 2
    assert keys == ["", "mine"]


async def test_a_broken_realtime_session_is_unavailable(rig: Rig) -> None:
    platform, client = rig

    async def session(
        messages: AsyncIterator[inference_pb2.RealtimeRequest],
    ) -> AsyncIterator[inference_pb2.RealtimeResponse]:
        async for message in messages:
            yield inference_pb2.RealtimeResponse(tag=message.tag, event=answers.a_step(1, 1))

    platform.scripts["Realtime"] = session
    async with client.realtime() as realtime:
        await realtime.send("one", "shapes")
        answers_of_it = aiter(realtime)
        assert (await anext(answers_of_it)).tag == "one"
        await asyncio.to_thread(platform.stop)
        with pytest.raises(errors.Unavailable):
            await anext(answers_of_it)
        with pytest.raises(errors.Unavailable):
            await realtime.send("two", "shapes")
