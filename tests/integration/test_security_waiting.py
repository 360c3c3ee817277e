"""Messages that callers send faster than they can be used wait within bounds, of all callers
together as well."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from websockets.asyncio.client import ClientConnection

from quickthaw.gateway.fal import realtime
from quickthaw.gateway.settings import Limits
from support.gateway_rig import a_gateway
from support.patience import PATIENCE_SECONDS
from support.sockets import CALLS, REALTIME, close_code, connected, read_by_now

TRY_AGAIN_LATER = 1013
POLICY_VIOLATION = 1008


def an_input(prompt: str, size_bytes: int) -> str:
    return json.dumps({"prompt": prompt, "unused": "x" * size_bytes})


@pytest.mark.parametrize("path", [REALTIME, CALLS])
async def test_what_waits_of_all_callers_has_a_bound_and_makes_room_when_one_leaves(
    tmp_path: Path, path: str
) -> None:
    limits = Limits(bodies_bytes_max=100_000, share_of_free=100, drain_seconds=1)
    async with a_gateway(tmp_path, limits=limits) as rig:
        rig.platform.hold()
        async with connected(rig, path) as one:
            await one.send(an_input("runs", 10))
            await rig.platform.submitted(1)
            await one.send(an_input("waits", 60_000))
            await read_by_now(one)
            async with connected(rig, path) as other:
                await other.send(an_input("runs", 10))
                await rig.platform.submitted(2)
                await other.send(an_input("is too much", 60_000))
                assert await close_code(other) == TRY_AGAIN_LATER
        async with connected(rig, path) as third:
            await third.send(an_input("runs", 10))
            request = await rig.platform.submitted(3)
            await third.send(an_input("waits", 60_000))
            await read_by_now(third)
            await request.succeed()
            await asyncio.wait_for(rig.platform.submitted(4), PATIENCE_SECONDS)


async def test_inputs_of_one_connection_give_way_by_their_bytes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "MESSAGE_BYTES_MAX", 1_000)
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with connected(rig, REALTIME + "?max_buffering=60") as socket:
            await socket.send(an_input("first", 10))
            request = await rig.platform.submitted()
            for prompt in ("lost", "last"):
                await socket.send(an_input(prompt, 600))
            await read_by_now(socket)
            await request.succeed()
            request = await rig.platform.submitted(2)
            await request.succeed()
            prompts = [await told(socket) for _ in range(2)]
        assert prompts == ["first", "last"]


async def told(socket: ClientConnection) -> str:
    """The next output's prompt."""
    while True:
        frame = await asyncio.wait_for(socket.recv(), PATIENCE_SECONDS)
        if isinstance(frame, bytes):
            output: dict[str, Any] = msgpack.unpackb(frame)
            return str(output["prompt"])


async def test_calls_of_one_connection_wait_within_the_bytes_of_a_body(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=Limits(body_bytes_max=1_000, drain_seconds=1)) as rig:
        rig.platform.hold()
        async with connected(rig, CALLS) as socket:
            await socket.send(an_input("runs", 10))
            await rig.platform.submitted()
            for _ in range(2):
                await socket.send(an_input("waits", 600))
            assert await close_code(socket) == POLICY_VIOLATION
