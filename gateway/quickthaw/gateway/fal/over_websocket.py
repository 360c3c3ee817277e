"""HTTP over WebSocket: `/ws/{id}`, or any path at the host `ws.fal.run`.

Each text frame holds the arguments of one call, which is answered with a text frame `start` (status
and headers), the body in frames as it arises, and a text frame `end`. Calls of one connection run
one after the other; to run them side by side, open connections. A path that ends in `/stream`
streams. What such a call may do and how it fails is what the same POST would do.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from quickthaw.gateway.answers import ClientGone, HttpError
from quickthaw.gateway.errors import error_answer
from quickthaw.gateway.fal.run import run
from quickthaw.gateway.fal.sockets import Opened, open_socket
from quickthaw.gateway.fal.stream import stream
from quickthaw.gateway.front import exchange_of
from quickthaw.gateway.json_text import render
from quickthaw.gateway.respond import REQUEST_ID_HEADER, error_response
from quickthaw.wire.status import translate

CALLS_WAITING_MAX = 16
NORMAL_CLOSURE = 1000
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013

_OF_THE_UPGRADE = (b"authorization", b"idempotency-key")

Handler = Callable[[Request], Awaitable[Response]]


async def over_websocket(websocket: WebSocket) -> None:
    """What is wrong with the path or the key is an HTTP answer in place of the upgrade."""
    opened = await open_socket(websocket)
    await websocket.accept()
    calls = _Calls(opened)
    gone = asyncio.Event()
    answering = asyncio.create_task(_answer_all(websocket, opened, calls, gone))
    reading = asyncio.create_task(_read(websocket, calls))
    try:
        await asyncio.wait({answering, reading}, return_when=asyncio.FIRST_COMPLETED)
        for task in (answering, reading):
            if task.done():
                task.result()
    finally:
        gone.set()
        answering.cancel()
        reading.cancel()
        await asyncio.wait({answering, reading})
        calls.clear()


async def _read(websocket: WebSocket, calls: _Calls) -> None:
    """All the time, so that pings are answered and a caller that leaves is noticed."""
    while (message := await websocket.receive())["type"] == "websocket.receive":
        frame = message.get("text")
        if frame is None:
            await websocket.close(POLICY_VIOLATION, "a call is a text frame of JSON arguments")
            return
        try:
            calls.put(frame.encode())
        except _TooMany as refused:
            await websocket.close(refused.code, str(refused))
            return


class _TooMany(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Calls:
    """That wait for their turn: so many, and of so many bytes together."""

    def __init__(self, opened: Opened) -> None:
        self._room = opened.gateway.body_room
        self._holder = opened.holder
        self._bytes_max = opened.gateway.limits.body_bytes_max
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(CALLS_WAITING_MAX)
        self._waiting_bytes = 0

    def put(self, body: bytes) -> None:
        """Raises _TooMany. One that waits alone may be as long as a frame: its answer says so."""
        if self._waiting.full():
            raise _TooMany(POLICY_VIOLATION, f"over {CALLS_WAITING_MAX} calls are waiting")
        if self._waiting_bytes and self._waiting_bytes + len(body) > self._bytes_max:
            raise _TooMany(POLICY_VIOLATION, f"over {self._bytes_max} bytes of calls are waiting")
        if not self._room.take(self._holder, len(body)):
            raise _TooMany(TRY_AGAIN_LATER, "too much is arriving at this moment")
        self._waiting_bytes += len(body)
        self._waiting.put_nowait(body)

    async def get(self) -> bytes:
        return self._taken(await self._waiting.get())

    def clear(self) -> None:
        while not self._waiting.empty():
            self._taken(self._waiting.get_nowait())

    def _taken(self, body: bytes) -> bytes:
        self._waiting_bytes -= len(body)
        self._room.give_back(self._holder, len(body))
        return body


async def _answer_all(
    websocket: WebSocket, opened: Opened, calls: _Calls, gone: asyncio.Event
) -> None:
    while True:
        try:
            async with asyncio.timeout(opened.gateway.limits.realtime_idle_seconds):
                body = await calls.get()
        except TimeoutError:
            await websocket.close(NORMAL_CLOSURE, "no call came for too long")
            return
        await _answer(websocket, opened, body, gone)


async def _answer(websocket: WebSocket, opened: Opened, body: bytes, gone: asyncio.Event) -> None:
    scope = _http_scope(websocket, opened)
    answer = _Answer(websocket, scope["state"]["exchange"].request_id)
    receive = _receive(body, gone)
    handler: Handler = stream if websocket.path_params["endpoint"].endswith("/stream") else run
    try:
        response = await handler(Request(scope, receive))
    except ClientGone:
        return
    except HttpError as error:
        response = error_response(error.answer, opened.gateway.public_url)
    except Exception as error:
        response = error_response(error_answer(translate(error)), opened.gateway.public_url)
    await response(scope, receive, answer.send)


def _http_scope(websocket: WebSocket, opened: Opened) -> Scope:
    """Of the POST that a frame stands for."""
    exchange = replace(exchange_of(websocket), request_id=str(uuid.uuid4()))
    # The upgrade's idempotency key cannot be that of every call.
    headers = [entry for entry in websocket.scope["headers"] if entry[0] not in _OF_THE_UPGRADE]
    if opened.options.credential:  # It may have come as a token in the query.
        headers.append((b"authorization", opened.options.credential.encode()))
    return {
        **websocket.scope,
        "type": "http",
        "method": "POST",
        "query_string": b"",
        "headers": headers,
        "path_params": {"endpoint": opened.endpoint.full},
        "state": {"gateway": opened.gateway, "exchange": exchange},
    }


def _receive(body: bytes, gone: asyncio.Event) -> Receive:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


class _Answer:
    """An ASGI answer as frames."""

    def __init__(self, websocket: WebSocket, request_id: str) -> None:
        self._websocket = websocket
        self._request_id = request_id
        self._began = time.perf_counter()
        self._first_byte_seconds: float | None = None
        self._status = 0
        self.send: Send = self._send

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
            self._status = message["status"]
            self._request_id = headers.setdefault(REQUEST_ID_HEADER, self._request_id)
            await self._tell("start", {"headers": headers})
            return
        if self._first_byte_seconds is None:
            self._first_byte_seconds = time.perf_counter() - self._began
        if body := message.get("body", b""):
            await self._websocket.send_text(body.decode())
        if not message.get("more_body", False):
            await self._tell("end", {"time_to_first_byte_seconds": self._first_byte_seconds})

    async def _tell(self, kind: str, more: dict[str, Any]) -> None:
        told = {"type": kind, "request_id": self._request_id, "status": self._status, **more}
        await self._websocket.send_text(render(told))
