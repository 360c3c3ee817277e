"""One tenant, or one address without a key, leaves room for the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection

from quickthaw.gateway.settings import Limits
from support.fake_inference import ALICE_KEY, BOB_KEY
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS
from support.sockets import CALLS, REALTIME, close_code, connected, read_by_now

RUN = "/run/quickthaw/shapes"
ROOM = Limits(bodies_bytes_max=100_000, drain_seconds=1)
OPEN_UPLOADS = 'quickthaw_gateway_open_requests{surface="cdn"}'
BOB = {"authorization": f"Key {BOB_KEY}"}


def a_body(size_bytes: int) -> bytes:
    empty = len(json.dumps({"prompt": "x", "none": ""}))
    return json.dumps({"prompt": "x", "none": "y" * (size_bytes - empty)}).encode()


@asynccontextmanager
async def sending(rig: Rig, key: str) -> AsyncIterator[asyncio.StreamReader]:
    """A body of which 40,000 bytes were sent and the last is missing."""
    address = rig.listening.http
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(
        f"POST {RUN} HTTP/1.1\r\nHost: x\r\nAuthorization: Key {key}\r\n"
        "Content-Length: 40001\r\n\r\n".encode()
        + b" " * 40_000
    )
    try:
        yield reader
    finally:
        writer.close()


async def one_of_two_is_refused(readers: list[asyncio.StreamReader]) -> None:
    told = [asyncio.create_task(reader.readline()) for reader in readers]
    done, pending = await asyncio.wait(
        told, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_SECONDS
    )
    assert [task.result() for task in done] == [b"HTTP/1.1 503 Service Unavailable\r\n"]
    assert len(pending) == 1
    for task in pending:
        task.cancel()


@pytest.mark.parametrize("key", ["qt_nobody_secret", ALICE_KEY])
async def test_bodies_of_one_caller_leave_room_for_those_of_another(
    tmp_path: Path, key: str
) -> None:
    """Whose key has not been good here yet counts for its address, which is everybody's here."""
    async with a_gateway(tmp_path, limits=ROOM) as rig, AsyncExitStack() as stack:
        for headers in ({}, BOB):
            assert (await rig.http.post(RUN, content=a_body(100), headers=headers)).is_success
        both = [await stack.enter_async_context(sending(rig, key)) for _ in range(2)]
        await one_of_two_is_refused(both)
        answer = await rig.http.post(RUN, content=a_body(50_000), headers=BOB)
        assert answer.status_code == 200, answer.text


async def begins(socket: ClientConnection, size_bytes: int) -> None:
    """A text frame, all but its last byte."""
    payload = a_body(size_bytes)
    head = b"\x81\xff" + len(payload).to_bytes(8, "big") + bytes(4)
    socket.transport.write((head + payload)[:-1])


@pytest.mark.parametrize("path", [REALTIME, CALLS])
async def test_messages_of_one_tenant_leave_room_for_those_of_another(
    tmp_path: Path, path: str
) -> None:
    async with (
        a_gateway(tmp_path, limits=ROOM) as rig,
        connected(rig, path) as one,
        connected(rig, path) as two,
        connected(rig, path, BOB) as bobs,
    ):
        await begins(one, 40_000)
        await read_by_now(bobs)
        await begins(two, 40_000)
        assert await close_code(two) == 1013
        await bobs.send(a_body(45_000).decode())
        await asyncio.wait_for(rig.platform.submitted(1), PATIENCE_SECONDS)
        assert one.close_code is None


async def test_uploads_of_one_tenant_leave_places_for_those_of_another(tmp_path: Path) -> None:
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x"
        await more.wait()
        yield b"y"

    limits = Limits(uploads_max=4, drain_seconds=1)
    path = "/cdn/files/upload"
    async with a_gateway(tmp_path, limits=limits, with_metrics=True) as rig:
        alices = [asyncio.create_task(rig.http.post(path, content=slowly())) for _ in range(6)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await rig.metrics()).get(OPEN_UPLOADS, 0) < 6:
                pass
            bobs = await rig.http.post(path, content=b"z", headers=BOB)
            more.set()
            answers = await asyncio.gather(*alices)
        assert {each.status_code for each in (bobs, *answers)} == {200}
