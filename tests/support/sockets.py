"""WebSockets to a gateway that a test runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import websockets
from websockets.asyncio.client import ClientConnection

from support.fake_inference import ALICE_KEY
from support.gateway_rig import Rig
from support.patience import PATIENCE_SECONDS

REALTIME, CALLS = "/run/quickthaw/shapes/realtime", "/ws/quickthaw/shapes"


@asynccontextmanager
async def connected(
    rig: Rig, path: str, more_headers: Mapping[str, str] | None = None
) -> AsyncIterator[ClientConnection]:
    headers = {"authorization": f"Key {ALICE_KEY}", **(more_headers or {})}
    url = rig.listening.public_url.replace("http", "ws", 1) + path
    async with websockets.connect(url, additional_headers=headers, proxy=None) as connection:
        yield connection


async def read_by_now(socket: ClientConnection) -> None:
    """All that was sent on the connection before has been read by the gateway."""
    await (await socket.ping())


async def close_code(socket: ClientConnection) -> int | None:
    """Of the gateway's goodbye."""
    await asyncio.wait_for(socket.wait_closed(), PATIENCE_SECONDS)
    return socket.close_code
