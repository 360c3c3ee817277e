"""Many listeners to one request: SSE and WebSocket, quick and slow."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from websockets.exceptions import InvalidStatus

from quickthaw.gateway.fanout import DROPPED_KINDS, Fanout, ReaderTooSlow
from quickthaw.gateway.platform import Credential, Platform
from quickthaw.gateway.settings import Limits
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.process import Address
from support.fake_inference import ALICE_KEY, BOB_KEY, MODEL_ID, FakePlatform, served
from support.fake_request import FakeRequest
from support.gateway_rig import Rig, a_gateway, events_of
from support.patience import PATIENCE_SECONDS

ALICE = Credential(f"Key {ALICE_KEY}")
LISTENERS = 200


async def submitted(rig: Rig) -> FakeRequest:
    rig.platform.hold()
    response = await rig.http.post(f"/queue/{MODEL_ID}", json={"prompt": "x"})
    assert response.status_code == 200
    return await rig.platform.submitted()


def stream_path(request: FakeRequest) -> str:
    return f"/queue/{MODEL_ID}/requests/{request.record.request_id}/status/stream?logs=1"


async def over_sse(http: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    async with http.stream("GET", path) as response:
        return await events_of(response)


async def over_websocket(rig: Rig, path: str, key: str = ALICE_KEY) -> list[dict[str, Any]]:
    url = rig.listening.public_url.replace("http", "ws", 1) + path
    headers = {"authorization": f"Key {key}"}
    async with websockets.connect(url, additional_headers=headers) as connection:
        return [json.loads(frame) async for frame in connection]


def lines_of(events: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for event in events for line in event.get("logs", [])]


async def test_two_hundred_listeners_share_one_watch_and_all_are_told_everything(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig, AsyncExitStack() as stack:
        request = await submitted(rig)
        pool = httpx.Limits(max_connections=LISTENERS)
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=rig.listening.public_url,
                headers={"authorization": ALICE},
                timeout=PATIENCE_SECONDS,
                limits=pool,
            )
        )
        path = stream_path(request)
        listening = [
            asyncio.ensure_future(over_sse(http, path) if index % 2 else over_websocket(rig, path))
            for index in range(LISTENERS)
        ]
        await asyncio.wait_for(request.watched_by(1), PATIENCE_SECONDS)
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        for number in range(5):
            await request.log(f"line {number}")
            assert request.watchers == 1
        await request.succeed()
        for events in await asyncio.wait_for(asyncio.gather(*listening), 60):
            assert lines_of(events) == [f"line {number}" for number in range(5)]
            assert events[-1]["status"] == "COMPLETED"
        await asyncio.wait_for(request.unwatched.wait(), PATIENCE_SECONDS)


async def test_a_slow_reader_is_cut_off_and_the_others_hear_everything(tmp_path: Path) -> None:
    limits = Limits(drain_seconds=1, stall_seconds=1.0)
    async with a_gateway(tmp_path, limits=limits, with_metrics=True) as rig:
        request = await submitted(rig)
        path = stream_path(request)
        quick = [asyncio.ensure_future(over_sse(rig.http, path)) for _ in range(3)]
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        address = rig.listening.http
        await asyncio.get_running_loop().sock_connect(connection, (address.host, address.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {ALICE}\r\n\r\n".encode())
        await reader.readuntil(b"IN_QUEUE")
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        for _ in range(300):
            await request.log("x" * 4000)
        await request.succeed()
        for events in await asyncio.wait_for(asyncio.gather(*quick), 60):
            assert events[-1]["status"] == "COMPLETED"
            assert len(lines_of(events)) == 300
        metrics = await rig.metrics()
        while not metrics["quickthaw_gateway_stalled_readers_total"]:
            metrics = await rig.metrics()
        writer.close()


async def test_one_watch_serves_one_key_only(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        request = await submitted(rig)
        path = stream_path(request)
        listening = asyncio.ensure_future(over_sse(rig.http, path))
        await asyncio.wait_for(request.watched_by(1), PATIENCE_SECONDS)
        bobs = await rig.nobody.get(path, headers={"authorization": f"Key {BOB_KEY}"})
        assert bobs.status_code == 404
        with pytest.raises(InvalidStatus) as refused:
            await over_websocket(rig, path, BOB_KEY)
        assert refused.value.response.status_code == 404
        await request.succeed()
        assert (await listening)[-1]["status"] == "COMPLETED"


# ---- the fan-out by itself ------------------------------------------------------------------


@asynccontextmanager
async def a_fanout(**limits: int) -> AsyncIterator[tuple[Fanout, FakeRequest]]:
    platform = FakePlatform()
    platform.hold()
    async with served(platform) as port:
        scheduler = Platform(Address("127.0.0.1", port), Limits())
        try:
            await scheduler.submit(
                ALICE, inference_pb2.SubmitRequest(model=MODEL_ID, input_json='{"prompt": "x"}')
            )
            yield Fanout(scheduler, Limits(**limits)), await platform.submitted()
        finally:
            await scheduler.close()


async def texts(events: Any) -> list[str]:
    return [event.log.text async for event in events if event.HasField("log")]


async def test_who_comes_late_is_told_what_is_kept() -> None:
    async with a_fanout(followed_events_max=4) as (fanout, request):
        request_id = request.record.request_id
        first = fanout.listen(ALICE, request_id)
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        assert (await anext(first)).HasField("state_change")
        for number in range(10):
            await request.log(str(number))
            assert (await anext(first)).log.text == str(number)
        late = fanout.listen(ALICE, request_id)
        assert (await anext(late)).HasField("state_change")
        await request.succeed()
        assert (await texts(late))[-1] == "9"
        assert await texts(first) == []
        assert fanout.watches == 0


async def test_a_listener_that_lost_what_it_wanted_is_told_and_the_others_go_on() -> None:
    async with a_fanout(followed_events_max=4) as (fanout, request):
        request_id = request.record.request_id
        slow = fanout.listen(ALICE, request_id)
        states_only = fanout.listen(ALICE, request_id, without=DROPPED_KINDS)
        quick = fanout.listen(ALICE, request_id)
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        for listener in (slow, states_only, quick):
            assert (await anext(listener)).HasField("state_change")
        for number in range(10):
            await request.log(str(number))
            assert (await anext(quick)).log.text == str(number)
        with pytest.raises(ReaderTooSlow):
            await anext(slow)
        await request.succeed()
        assert (await anext(states_only)).HasField("finished")
        assert (await anext(quick)).HasField("finished")
        for listener in (slow, states_only, quick):
            await listener.aclose()
        assert fanout.watches == 0


async def test_previews_beyond_the_bound_in_bytes_are_dropped_first() -> None:
    async with a_fanout(followed_bytes_max=10_000) as (fanout, request):
        request_id = request.record.request_id
        watcher = fanout.listen(ALICE, request_id)
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        await anext(watcher)
        for step in range(20):
            await request.preview(step, bytes(4000))
            assert (await anext(watcher)).preview.step == step
        late = fanout.listen(ALICE, request_id)
        assert (await anext(late)).HasField("state_change")
        assert (await anext(late)).preview.step >= 17
        for listener in (watcher, late):
            await listener.aclose()


async def test_the_last_listener_to_leave_ends_the_watch() -> None:
    async with a_fanout() as (fanout, request):
        one = fanout.listen(ALICE, request.record.request_id)
        other = fanout.listen(ALICE, request.record.request_id)
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        await anext(one)
        await anext(other)
        assert request.watchers == 1
        await one.aclose()
        assert fanout.watches == 1
        await other.aclose()
        assert fanout.watches == 0
        await asyncio.wait_for(request.unwatched.wait(), PATIENCE_SECONDS)
