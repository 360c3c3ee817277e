"""WebSockets beside realtime: HTTP over them, tokens that open them, and frames of any kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from quickthaw.gateway.fal.frames import DEPTH_MAX, ITEMS_MAX, BadFrame, decode
from support.fake_inference import ALICE_KEY
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS


@asynccontextmanager
async def connected(
    rig: Rig, path: str, *, key: str | None = ALICE_KEY, host: str | None = None
) -> AsyncIterator[ClientConnection]:
    headers = {"authorization": f"Key {key}"} if key else {}
    url = rig.listening.public_url.replace("http", "ws", 1) + path
    address = rig.listening.http
    if host is not None:
        url = f"ws://{host}{path}"
    async with websockets.connect(
        url, additional_headers=headers, host=address.host, port=address.port, proxy=None
    ) as connection:
        yield connection


async def called(connection: ClientConnection, arguments: object) -> list[Any]:
    """The frames of one call: `start`, the body's as they are, `end`."""
    await connection.send(json.dumps(arguments))
    frames: list[Any] = []
    while not frames or not frames[-1].startswith('{"type":"end"'):
        frame = await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS)
        assert isinstance(frame, str)
        frames.append(frame)
    return [json.loads(frames[0]), *frames[1:-1], json.loads(frames[-1])]


@pytest.mark.parametrize(
    ("path", "host"),
    [
        pytest.param("/ws/fal-ai/shapes/dev", None, id="by prefix"),
        pytest.param("/fal-ai/shapes/dev", "ws.fal.run", id="by host"),
    ],
)
async def test_calls_over_a_websocket_are_answered_one_after_the_other(
    tmp_path: Path, path: str, host: str | None
) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig, path, host=host) as connection:
        for number in range(3):
            start, body, end = await called(connection, {"prompt": str(number)})
            assert (start["type"], start["status"]) == ("start", 200)
            assert start["headers"]["x-fal-request-id"] == start["request_id"]
            assert json.loads(body)["prompt"] == str(number)
            assert end["request_id"] == start["request_id"]
            assert end["time_to_first_byte_seconds"] >= 0


async def test_a_call_over_a_websocket_fails_as_its_post_would(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig, "/ws/fal-ai/shapes/dev") as connection:
        start, body, end = await called(connection, {})
        assert (start["status"], end["status"]) == (422, 422)
        assert json.loads(body)["detail"][0]["type"] == "missing"
        assert (await called(connection, {"prompt": "x"}))[0]["status"] == 200


async def test_a_stream_over_a_websocket_sends_its_events_as_they_arise(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with connected(rig, "/ws/fal-ai/shapes/dev/stream") as connection:
            await connection.send('{"prompt": "x"}')
            request = await rig.platform.submitted()
            await request.preview(1)
            start = json.loads(await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS))
            assert start["headers"]["content-type"].startswith("text/event-stream")
            assert str(await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS)).startswith(
                "data: {"
            )
            assert not request.record.HasField("receipt")
        await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)


async def test_frames_that_are_no_calls_close_the_connection(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig, connected(rig, "/ws/fal-ai/shapes/dev") as connection:
        await connection.send(b"bytes")
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_a_token_opens_a_socket_and_a_stream_of_its_app_without_a_key(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        asked = {"allowed_apps": ["shapes"], "token_expiration": 60}
        token = (await rig.http.post("/rest/tokens/", json=asked)).json()
        query = f"?fal_jwt_token={token}"
        for path in ("/fal-ai/shapes/dev/realtime", "/ws/fal-ai/shapes/dev"):
            async with connected(rig, path + query, key=None) as connection:
                await connection.send('{"prompt": "x"}')
                assert await asyncio.wait_for(connection.recv(), PATIENCE_SECONDS)
        streamed = await rig.nobody.post(f"/fal-ai/shapes/dev/stream{query}", json={"prompt": "x"})
        assert streamed.status_code == 200
        other = {"allowed_apps": ["others"], "token_expiration": 60}
        wrong = (await rig.http.post("/rest/tokens/", json=other)).json()
        for bad, status in (("forged", 401), (wrong, 403)):
            with pytest.raises(InvalidStatus) as refused:
                async with connected(
                    rig, f"/fal-ai/shapes/dev/realtime?fal_jwt_token={bad}", key=None
                ):
                    pass
            assert refused.value.response.status_code == status


# ---- anything at all --------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
packed_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)
messages = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100),
    json_values.map(json.dumps),
    packed_values.map(msgpack.packb),
    st.integers(1, 100).map(lambda depth: b"\x91" * depth),
    st.sampled_from([b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]),
)


@given(messages)
@settings(max_examples=400)
def test_whatever_a_frame_holds_it_is_arguments_or_a_bad_frame(frame: bytes | str) -> None:
    with contextlib.suppress(BadFrame):
        json.dumps(decode(frame), allow_nan=False)


@given(st.integers(1, 4), st.integers(DEPTH_MAX, 2000))
def test_a_frame_is_bounded_before_it_is_decoded(kinds: int, depth: int) -> None:
    array, map_ = b"\x91", b"\x81\xa1k"
    nested = (array if kinds % 2 else map_) * depth + b"\xc0"
    with pytest.raises(BadFrame):
        decode(nested)
    with pytest.raises(BadFrame):
        decode(b"\xdd" + struct.pack(">I", ITEMS_MAX + 1) + b"\x80" * (ITEMS_MAX + 1))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Runs in a thread of its own, so that examples may block."""
    loop = asyncio.new_event_loop()
    ready: list[Rig] = []
    started, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        try:
            async with a_gateway(tmp_path_factory.mktemp("gateway"), with_metrics=True) as rig:
                ready.append(rig)
                started.set()
                await stop.wait()
        finally:
            started.set()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait(30)
    yield ready[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()


def upgraded(rig: Rig) -> socket.socket:
    connection = socket.create_connection((rig.listening.http.host, rig.listening.http.port))
    connection.settimeout(PATIENCE_SECONDS)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET /fal-ai/shapes/dev/realtime HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n"
        f"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n"
        f"authorization: Key {ALICE_KEY}\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return connection


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One frame: any opcode, any reserved bits, whole or a fragment, masked or not, its length
    perhaps a lie."""
    first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x80, 0x00, 0x89, 0x8A, 0x88]))
    if draw(st.integers(0, 5)) == 0:
        first = draw(st.integers(0, 255))
    payload = draw(messages)
    data = payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload
    length = len(data) if draw(st.integers(0, 5)) else draw(st.integers(0, 2**63))
    if length < 126:
        head = bytes([first, length | 0x80])
    elif length < 2**16:
        head = bytes([first, 126 | 0x80]) + struct.pack(">H", length)
    else:
        head = bytes([first, 127 | 0x80]) + struct.pack(">Q", length)
    if draw(st.integers(0, 9)) == 0:
        return bytes([head[0], head[1] & 0x7F]) + head[2:] + data
    return head + bytes(4) + data


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        (f"GET /ws/quickthaw/shapes?{'a' * 9000}", ""),
        ("GET /ws/quickthaw/shapes", f"x: {'a' * 9000}\r\n"),
        ("GET /ws/quickthaw/shapes", "x: a\r\n" * 200),
        ("POST /ws/quickthaw/shapes", ""),
        ("GET /ws/quickthaw/shapes", "transfer-encoding: chunked\r\n"),
        ("GET /ws/quickthaw/shapes", "content-length: 5\r\n"),
        ("GET /ws/quickthaw/shapes", ""),  # without a key
    ],
)
def test_an_upgrade_that_cannot_be_is_answered_and_ends(
    gateway: Rig, line: str, headers: str
) -> None:
    address = gateway.listening.http
    with socket.create_connection((address.host, address.port)) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.sendall(
            f"{line} HTTP/1.1\r\nhost: x\r\n{headers}upgrade: websocket\r\n"
            "connection: upgrade\r\nsec-websocket-version: 13\r\n\r\n".encode()
        )
        assert connection.recv(10) == b"HTTP/1.1 4"
        while connection.recv(4096):
            pass


def test_a_goodbye_without_a_code_is_answered_with_a_normal_one(gateway: Rig) -> None:
    with contextlib.closing(upgraded(gateway)) as connection:
        connection.sendall(b"\x89\x80" + bytes(4) + b"\x88\x80" + bytes(4))
        data = b""
        while part := connection.recv(64):
            data += part
        assert data == b"\x8a\x00\x88\x02\x03\xe8"


@given(st.lists(frames(), max_size=6))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_frames_harms_the_gateway(gateway: Rig, sent: list[bytes]) -> None:
    connection = upgraded(gateway)
    with contextlib.closing(connection), contextlib.suppress(ConnectionError):
        connection.sendall(b"".join(sent))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    with contextlib.closing(upgraded(gateway)) as fine:
        data = b'{"prompt":"x"}'
        fine.sendall(bytes([0x81, 0x80 | len(data)]) + bytes(4) + data)
        assert fine.recv(2)[0] == 0x82


def test_after_all_that_nothing_is_open(gateway: Rig) -> None:
    assert gateway.listening.metrics_url is not None
    for _ in range(200):
        with urllib.request.urlopen(gateway.listening.metrics_url) as answer:
            text = answer.read().decode()
        if 'quickthaw_gateway_open_requests{surface="run"} 0.0' in text:
            break
    else:
        pytest.fail(text)
    assert 'requests_total{status="500"' not in text
