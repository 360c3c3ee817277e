"""Messages of WebSockets count from their first byte on, and have to arrive in time."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection

from quickthaw.gateway.settings import Limits
from support.fake_inference import ALICE_KEY
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS
from support.sockets import CALLS, REALTIME, close_code, connected, read_by_now

TRY_AGAIN_LATER = 1013


def a_text_of(size_bytes: int) -> bytes:
    empty = len(json.dumps({"prompt": "a", "unused": ""}))
    return json.dumps({"prompt": "a", "unused": "x" * (size_bytes - empty)}).encode()


def frame_of(payload: bytes) -> bytes:
    """One text frame of a client, whose mask changes nothing."""
    return b"\x81\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload


async def begins(socket: ClientConnection, frame: bytes, sent_bytes: int) -> None:
    """Sends as much of a frame; the library would send all of it."""
    socket.transport.write(frame[:sent_bytes])


async def room_is_free(rig: Rig, path: str, size_bytes: int) -> None:
    """A message of that size is taken in."""
    async with connected(rig, path) as socket:
        count = len(rig.platform.requests)
        await socket.send(a_text_of(size_bytes).decode())
        await asyncio.wait_for(rig.platform.submitted(count + 1), PATIENCE_SECONDS)


@pytest.mark.parametrize("path", [REALTIME, CALLS])
async def test_a_frame_that_has_not_arrived_yet_counts_with_all_others(
    tmp_path: Path, path: str
) -> None:
    limits = Limits(bodies_bytes_max=100_000, share_of_free=100, drain_seconds=1)
    frame = frame_of(a_text_of(70_000))
    async with a_gateway(tmp_path, limits=limits) as rig, connected(rig, path) as one:
        await begins(one, frame, 60_000)
        async with connected(rig, path) as other:
            await begins(other, frame, 60_000)
            assert await close_code(other) == TRY_AGAIN_LATER
        one.transport.abort()
        await room_is_free(rig, path, 70_000)


async def test_fragments_count_and_what_they_became_is_free_again(tmp_path: Path) -> None:
    limits = Limits(bodies_bytes_max=100_000, share_of_free=100, drain_seconds=1)
    more = asyncio.Event()

    async def fragments() -> AsyncIterator[str]:
        text = a_text_of(70_000).decode()
        yield text[:60_000]
        await more.wait()
        yield text[60_000:]

    async with (
        a_gateway(tmp_path, limits=limits) as rig,
        connected(rig, REALTIME) as one,
        connected(rig, REALTIME) as other,
    ):
        sending = asyncio.create_task(one.send(fragments()))
        await read_by_now(one)
        await other.send(a_text_of(60_000).decode())
        assert await close_code(other) == TRY_AGAIN_LATER
        more.set()
        await sending
        await asyncio.wait_for(rig.platform.submitted(1), PATIENCE_SECONDS)
        await room_is_free(rig, REALTIME, 70_000)


async def test_of_many_slow_senders_only_as_many_go_on_as_there_is_room_for(
    tmp_path: Path,
) -> None:
    limits = Limits(bodies_bytes_max=1_000_000, share_of_free=100, drain_seconds=1)
    frame = frame_of(a_text_of(310_000))
    async with a_gateway(tmp_path, limits=limits) as rig, AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(connected(rig, REALTIME)) for _ in range(20)]
        for sender in senders:
            await begins(sender, frame, 300_000)
        closed = {asyncio.create_task(sender.wait_closed()) for sender in senders}
        pending = closed
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(pending) > 3:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        left = [sender for sender in senders if sender.close_code is None]
        assert len(left) == 3
        for sender in left:
            sender.transport.write(frame[300_000:])
        await asyncio.wait_for(rig.platform.submitted(3), PATIENCE_SECONDS)
        for task in pending:
            task.cancel()


async def test_a_message_that_takes_too_long_is_given_up_and_silence_is_not(
    tmp_path: Path,
) -> None:
    limits = Limits(body_seconds=0.3, drain_seconds=1)
    async with (
        a_gateway(tmp_path, limits=limits) as rig,
        connected(rig, REALTIME) as silent,
        connected(rig, REALTIME) as slow,
    ):
        await begins(slow, frame_of(a_text_of(1000)), 500)
        assert await close_code(slow) == TRY_AGAIN_LATER
        await read_by_now(silent)


def answers_to(rig: Rig, frames: bytes) -> int:
    """How many bytes come back to who reads nothing before all was sent."""
    with socket.socket() as raw:
        raw.settimeout(PATIENCE_SECONDS)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((rig.listening.http.host, rig.listening.http.port))
        raw.sendall(
            f"GET {REALTIME} HTTP/1.1\r\nHost: x\r\nAuthorization: Key {ALICE_KEY}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert raw.recv(12) == b"HTTP/1.1 101"
        raw.sendall(frames)
        return sum(map(len, iter(lambda: raw.recv(65536), b"")))


async def test_pings_of_who_takes_no_answers_are_not_answered(tmp_path: Path) -> None:
    ping = b"\x89\xfd" + bytes(4) + b"x" * 125
    goodbye = b"\x88\x80" + bytes(4)
    async with a_gateway(tmp_path) as rig:
        pings = 60_000 * ping
        assert await asyncio.to_thread(answers_to, rig, pings + goodbye) < len(pings) / 2
