from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from quickthaw.gateway.settings import Limits
from quickthaw.v1 import types_pb2
from support.fake_inference import ALICE_KEY, BOB_KEY
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS

REALTIME = "/fal-ai/shapes/dev/realtime"


@asynccontextmanager
async def connected(
    rig: Rig, path: str = REALTIME, key: str | None = ALICE_KEY, **options: Any
) -> AsyncIterator[ClientConnection]:
    headers = {"authorization": f"Key {key}"} if key else {}
    url = rig.listening.public_url.replace("http", "ws", 1) + path
    async with websockets.connect(
        url, additional_headers=headers, max_size=None, **options
    ) as socket:
        yield socket


async def told(socket: ClientConnection) -> dict[str, Any]:
    """The next frame, whichever way it was sent; fails if none comes."""
    frame = await asyncio.wait_for(socket.recv(), PATIENCE_SECONDS)
    value = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)
    assert isinstance(value, dict)
    return value


def packed(**arguments: object) -> bytes:
    data = msgpack.packb(arguments)
    assert isinstance(data, bytes)
    return data


async def test_an_input_is_answered_with_its_output_and_then_with_timings(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        await socket.send(packed(prompt="a", request_id="mine"))
        output = await told(socket)
        assert output["request_id"] == "mine"
        (image,) = output["images"]
        assert image["content"] == b"picture 0"
        assert (await rig.nobody.get(image["url"])).content == b"picture 0"
        assert output["receipt"]["price_nanodollars"] == 12340
        assert await told(socket) == {
            "type": "x-fal-message",
            "action": "timings",
            "timing": 1.234,
        }


async def test_text_is_json_and_sync_mode_means_data_uris(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        await socket.send(json.dumps({"prompt": "a", "sync_mode": True}))
        frame = await asyncio.wait_for(socket.recv(), PATIENCE_SECONDS)
        assert isinstance(frame, bytes)
        output = msgpack.unpackb(frame)
        assert output["images"][0]["url"].startswith("data:image/png;base64,")
        assert output["request_id"] == "req-1"


async def test_many_inputs_share_one_session_with_the_scheduler(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        for index in range(5):
            await socket.send(packed(prompt=str(index)))
            assert (await told(socket))["prompt"] == str(index)
            await told(socket)
        assert (rig.platform.sessions, len(rig.platform.requests)) == (1, 5)


async def test_inputs_that_nobody_took_give_way_to_newer_ones(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with connected(rig, REALTIME + "?max_buffering=2") as socket:
            await socket.send(packed(prompt="first"))
            request = await rig.platform.submitted()
            for name in ("lost", "second", "third"):
                await socket.send(packed(prompt=name))
            await (await socket.ping())  # by now they have been read
            for count, name in enumerate(("first", "second", "third"), start=1):
                request = await asyncio.wait_for(rig.platform.submitted(count), PATIENCE_SECONDS)
                await request.succeed()
                assert (await told(socket))["prompt"] == name
                await told(socket)
        assert len(rig.platform.requests) == 3


async def test_pings_are_answered_during_a_run(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with connected(rig) as socket:
            await socket.send(packed(prompt="x"))
            await rig.platform.submitted()
            for _ in range(3):
                await socket.send(packed(prompt="y"))
                await asyncio.wait_for(await socket.ping(), PATIENCE_SECONDS)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="a byte that MessagePack does not use"),
        pytest.param(b"\x81\xa1a", id="cut off"),
        pytest.param(b"\x91" * 40 + b"\xc0", id="deeply nested"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="a map of four thousand million entries"),
        pytest.param(b"\x80\x80", id="two values"),
        pytest.param(b"\xd4\x05x", id="an extension"),
        pytest.param(b"\x81\xa6prompt\xcb\x7f\xf0" + b"\0" * 6, id="infinity"),
        pytest.param(b"\x81\x01\x02", id="a key that is no text"),
        pytest.param("{", id="no JSON"),
        pytest.param('{"prompt": NaN}', id="NaN"),
        pytest.param('{"guidance_scale": 1e999}', id="a number beyond numbers"),
        pytest.param("[" * 10_000, id="JSON without a bottom"),
        pytest.param("[" + "1," * 30_000 + "1]", id="too many values"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="without what the model needs"),
        pytest.param('{"prompt": "' + "x" * 300 + '"}', id="against the schema"),
    ],
)
async def test_a_bad_input_is_told_and_the_connection_goes_on(
    tmp_path: Path, frame: bytes | str
) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        await socket.send(frame)
        error = await told(socket)
        assert (error["type"], error["error"]) == ("x-fal-error", "INVALID_INPUT")
        assert error["reason"]
        await socket.send(packed(prompt="fine"))
        assert (await told(socket))["prompt"] == "fine"


async def test_a_message_of_64_mebibytes_is_taken(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        await socket.send(packed(prompt="x", ballast=bytes(64 * 1024 * 1024 - 100)))
        # The model has no such argument, and arguments that a model has not are ignored.
        assert (await told(socket))["prompt"] == "x"


async def test_a_longer_message_closes_the_connection(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(bytes(64 * 1024 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await told(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_a_run_that_fails_is_told_by_its_kind(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with connected(rig) as socket:
            await socket.send(packed(prompt="x"))
            await (await rig.platform.submitted()).fail("ATTEMPTS_EXHAUSTED", "three tries")
            error = await told(socket)
            assert (error["error"], error["reason"]) == ("RUNNER_SERVER_ERROR", "three tries")


async def test_leaving_cancels_what_runs(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with connected(rig) as socket:
            await socket.send(packed(prompt="x"))
            request = await rig.platform.submitted()
            await request.move(types_pb2.REQUEST_STATE_RUNNING)
        await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)


async def test_a_silent_session_ends_with_a_timeout_and_a_clean_close(tmp_path: Path) -> None:
    limits = Limits(realtime_idle_seconds=0.05, drain_seconds=1)
    async with a_gateway(tmp_path, limits=limits) as rig, connected(rig) as socket:
        assert (await told(socket))["error"] == "TIMEOUT"
        with pytest.raises(ConnectionClosed) as closed:
            await told(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


async def test_a_session_outlives_a_restart_of_the_scheduler(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:
        await socket.send(packed(prompt="before"))
        assert (await told(socket))["prompt"] == "before"
        await told(socket)
        await rig.restart_scheduler()
        await socket.send(packed(prompt="after"))
        assert (await told(socket))["prompt"] == "after"


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        pytest.param("/fal-ai/unknown/realtime", ALICE_KEY, 404, id="unknown model"),
        pytest.param(REALTIME, None, 401, id="no key"),
        pytest.param(REALTIME, "qt_wrong_secret", 401, id="wrong key"),
        pytest.param(REALTIME + "?max_buffering=61", ALICE_KEY, 400, id="buffering"),
        pytest.param(REALTIME + "?max_buffering=000160000000", ALICE_KEY, 400, id="zeros"),
        pytest.param("/metrics/x/realtime", ALICE_KEY, 404, id="no endpoint"),
        pytest.param("/queue/fal-ai/shapes", ALICE_KEY, 404, id="another surface"),
    ],
)
async def test_what_is_wrong_with_a_call_is_said_instead_of_the_upgrade(
    tmp_path: Path, path: str, key: str | None, status: int
) -> None:
    async with a_gateway(tmp_path) as rig:
        with pytest.raises(InvalidStatus) as refused:
            async with connected(rig, path, key):
                pass
        response = refused.value.response
        assert response.status_code == status
        assert json.loads(response.body)["detail"]
        assert response.headers["x-fal-request-id"]


@pytest.mark.parametrize("path", ["/run/quickthaw/shapes/realtime", "/quickthaw/shapes/other"])
async def test_any_path_behind_a_model_is_its_realtime_endpoint(tmp_path: Path, path: str) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig, path, BOB_KEY) as socket:
        await socket.send(packed(prompt="x"))
        assert (await told(socket))["prompt"] == "x"


async def test_an_id_for_drawing_over_a_picture_wants_one_in_each_input(tmp_path: Path) -> None:
    path = "/fal-ai/shapes/dev/image-to-image/realtime"
    async with a_gateway(tmp_path) as rig, connected(rig, path) as socket:
        await socket.send(packed(prompt="a"))
        refused = await told(socket)
        (item,) = json.loads(refused["reason"])
        assert (refused["error"], item["loc"]) == ("INVALID_INPUT", ["body", "image_url"])


async def test_one_websocket_too_many_is_refused(tmp_path: Path) -> None:
    limits = Limits(websockets_max=1, drain_seconds=1)
    async with a_gateway(tmp_path, limits=limits) as rig:
        async with connected(rig):
            with pytest.raises(InvalidStatus) as refused:
                async with connected(rig):
                    pass
            assert refused.value.response.status_code == 503
        async with connected(rig) as socket:
            await socket.send(packed(prompt="x"))
            assert (await told(socket))["prompt"] == "x"


async def test_a_message_of_endless_empty_fragments_is_cut_off(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig) as socket:

        async def fragments() -> AsyncIterator[bytes]:
            while True:
                yield b""

        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.send(fragments()), 60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_a_token_is_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for name in ("uvicorn", "uvicorn.error", "quickthaw", "websockets.server"):
        caplog.set_level("DEBUG", logger=name)
    async with a_gateway(tmp_path) as rig:
        path = f"{REALTIME}?fal_jwt_token=very-secret"
        try:
            async with connected(rig, path) as socket:
                await socket.send(packed(prompt="x"))
                await told(socket)
        except InvalidStatus:
            pass
    ours = [record for record in caplog.records if not record.name.startswith("websockets.client")]
    assert not any("very-secret" in record.getMessage() for record in ours)
