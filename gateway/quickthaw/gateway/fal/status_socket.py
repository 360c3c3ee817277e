"""The status stream over a WebSocket: a text frame for each change, then a clean close."""

from __future__ import annotations

import asyncio

from starlette.websockets import WebSocket

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.fal.queue import find_request, wants_logs
from quickthaw.gateway.fal.status import request_urls
from quickthaw.gateway.fal.status_stream import status_events
from quickthaw.gateway.json_text import JsonObject, render
from quickthaw.gateway.platform import Credential
from quickthaw.v1 import types_pb2


async def status_socket(websocket: WebSocket) -> None:
    """The same events as the SSE stream at the same path. What the caller sends is ignored."""
    gateway, endpoint, credential, found = await find_request(websocket)
    urls = request_urls(gateway, endpoint, found.request_id)
    await websocket.accept()
    with gateway.metrics.open_streams.track_inprogress():
        telling = asyncio.create_task(_tell(websocket, gateway, credential, found, urls))
        leaving = asyncio.create_task(_left(websocket))
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            telling.cancel()
            leaving.cancel()
            await asyncio.wait({telling, leaving})


async def _tell(
    websocket: WebSocket,
    gateway: Gateway,
    credential: Credential,
    found: types_pb2.Request,
    urls: JsonObject,
) -> None:
    events = status_events(gateway, credential, found, urls, with_logs=wants_logs(websocket))
    try:
        async for event in events:
            await websocket.send_text(render(event))
        await websocket.close()
    finally:
        await events.aclose()


async def _left(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
