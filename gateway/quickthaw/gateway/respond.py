"""Answers as bytes: JSON, and event streams that are cut when nobody reads them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from quickthaw.gateway.answers import ErrorAnswer, retryable_headers
from quickthaw.gateway.bodies import until_gone
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.json_text import Json, JsonObject, render
from quickthaw.v1 import types_pb2

RUNNER_HINTS_HEADER = "x-fal-runner-hints"
REQUEST_ID_HEADER = "x-fal-request-id"
ERROR_TYPE_HEADER = "x-fal-error-type"
KINDS_PATH = "/docs/errors"
"""The page that explains the kinds of errors, each at an anchor of its name."""
LINGER_SECONDS = 2.0
LINGER_BYTES_MAX = 64 * 1024 * 1024


def json_response(
    value: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(render(value), status, dict(headers or {}), media_type="application/json")


def runner_hints(request: types_pb2.Request) -> dict[str, str]:
    """Where the model is warm now: what a later call may give as its runner hint."""
    worker_id = request.receipt.worker_id
    return {RUNNER_HINTS_HEADER: worker_id} if worker_id.isascii() and worker_id else {}


def error_body(answer: ErrorAnswer, public_url: str) -> JsonObject:
    """`detail` and, where there is one, `error_type`. An item of a list says where its kind is
    explained."""
    detail: Json = answer.detail if isinstance(answer.detail, str) else _items(answer, public_url)
    body: JsonObject = {"detail": detail}
    if answer.error_type is not None:
        body["error_type"] = answer.error_type
    return body


def error_response(answer: ErrorAnswer, public_url: str) -> Response:
    headers = dict(answer.headers)
    if answer.error_type is not None:
        headers[ERROR_TYPE_HEADER] = answer.error_type
    if not isinstance(answer.detail, str) and "x-fal-retryable" not in headers:
        headers |= retryable_headers(retryable=False)  # Arguments at fault stay so.
    return json_response(error_body(answer, public_url), answer.status, headers)


async def answer_and_linger(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """The whole answer, then a while in which what the caller still sends is passed over.

    To close a connection on which bytes arrive resets it, and the answer might be lost with it.
    """

    async def hold(message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send({**message, "more_body": True} if last else message)

    await response(scope, receive, hold)
    passed_bytes = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while passed_bytes < LINGER_BYTES_MAX:
                message = await receive()
                if not message.get("more_body", False):  # its end, or the caller's
                    break
                passed_bytes += len(message["body"])
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _items(answer: ErrorAnswer, public_url: str) -> list[Json]:
    assert not isinstance(answer.detail, str)
    # Values are what json.loads made of a request, plus our own texts and numbers.
    return [
        {**{key: _plain(value) for key, value in item.items()}, "url": _explained(item, public_url)}
        for item in answer.detail
    ]


def _explained(item: Mapping[str, object], public_url: str) -> str:
    return f"{public_url}{KINDS_PATH}#{quote(str(item.get('type', '')))}"


def _plain(value: object) -> Json:
    match value:
        case None | str() | int() | float():
            return value
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case _:
            return str(value)


class EventStream(Response):
    """Server-sent events, one JSON object each, flushed one by one.

    When it ends or the reader leaves, also before it began, `events` is closed and `on_end` called.
    Comments fill silences. Each event is one `data:` line and an empty one, without name or id:
    anything else upsets some client of fal's. `named`: each is named by its `type`, as others want.
    """

    def __init__(
        self,
        gateway: Gateway,
        events: AsyncGenerator[JsonObject, None],
        headers: Mapping[str, str] | None = None,
        on_end: Callable[[], None] = lambda: None,
        *,
        named: bool = False,
    ) -> None:
        super().__init__(
            None,
            200,
            {"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})},
            media_type="text/event-stream",
        )
        # A length would promise an end.
        del self.headers["content-length"]
        self._gateway = gateway
        self._events = events
        self._on_end = on_end
        self._named = named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._gateway.metrics.open_streams.track_inprogress():
                await until_gone(receive, self._pump(send))
        finally:
            self._on_end()

    def encode(self, event: JsonObject) -> bytes:
        """One event as it goes over the wire; other dialects override it."""
        name = f"event: {event['type']}\n" if self._named else ""
        return f"{name}data: {render(event)}\n\n".encode()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pings = _Pings(send, self._gateway.limits.ping_seconds)
        try:
            async for event in self._events:
                pings.postpone()
                await send(_chunk(self.encode(event)))
        finally:
            pings.stop()
            # The source's own `finally` is to run now and not at some collection of garbage.
            await self._events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Pings:
    """Sends a comment after each `seconds` of silence. One timer for a whole stream: a task and a
    timeout for each event would cost as much as the event."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._silent_since = self._loop.time()
        self._sending: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(seconds, self._look)

    def postpone(self) -> None:
        self._silent_since = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._silent_since >= self._seconds:
            self._silent_since = now
            # A reader that has not taken the last one yet needs no other.
            if self._sending is None or self._sending.done():
                self._sending = self._loop.create_task(self._ping())
        self._timer = self._loop.call_at(self._silent_since + self._seconds, self._look)

    async def _ping(self) -> None:
        # A reader that is gone is noticed by the stream itself.
        with contextlib.suppress(OSError):
            await self._send(_chunk(b": ping\n\n"))


def _chunk(data: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": True}
