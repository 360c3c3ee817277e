"""`WebSocket /run/{id}/realtime`: arguments in, outputs out, one connection for many of them.

The connection is read all the time, so that pings are answered during a run and the newest inputs
win: those that wait are `max_buffering` at most, and as many bytes as one may have; beyond that the
oldest goes. Inputs run one
after the other, on one session with the scheduler, which keeps them on one worker.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.websockets import WebSocket

from quickthaw.gateway.answers import ErrorAnswer, HttpError
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.errors import error_answer, failure_answer
from quickthaw.gateway.fal.frames import BadFrame, decode, encode, error_frame, timings_frame
from quickthaw.gateway.fal.realtime_output import packed_output
from quickthaw.gateway.fal.realtime_runs import Runs
from quickthaw.gateway.fal.sockets import Opened, open_socket
from quickthaw.gateway.json_text import render
from quickthaw.gateway.respond import error_body
from quickthaw.gateway.websocket import MESSAGE_BYTES_MAX
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.status import translate

BUFFERING_DEFAULT = 2
BUFFERING_MAX = 60
REQUEST_ID_CHARS_MAX = 200
NORMAL_CLOSURE = 1000
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013
_UNAUTHORIZED = render({"status": "error", "error": "Unauthorized"})
"""What fal's JavaScript client gives its token up for."""
_REASON_CHARS_MAX = 4000


async def realtime(websocket: WebSocket) -> None:
    """What is wrong with the call is an HTTP answer in place of the upgrade."""
    buffering = _buffering(websocket.query_params.get("max_buffering"))
    opened = await open_socket(websocket)
    await websocket.accept()
    inbox = _Inbox(websocket, opened, buffering)
    runs = Runs(opened)
    serving = asyncio.create_task(_serve(websocket, opened, inbox, runs))
    try:
        await asyncio.wait({serving, inbox.reading}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        serving.cancel()
        inbox.reading.cancel()
        runs.close()
        await asyncio.wait({serving, inbox.reading})
        inbox.clear()


class _Inbox:
    """Reads the connection to its end; keeps the newest `buffering` inputs that nobody took."""

    def __init__(self, websocket: WebSocket, opened: Opened, buffering: int) -> None:
        self._websocket = websocket
        self._room = opened.gateway.body_room
        self._holder = opened.holder
        self._buffering = buffering
        self._frames: deque[bytes | str] = deque()
        self._waiting_bytes = 0
        self._news = asyncio.Event()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (message := await self._websocket.receive())["type"] == "websocket.receive":
            data = message.get("bytes")
            frame: bytes | str = message["text"] if data is None else data
            while self._frames and (
                len(self._frames) >= self._buffering
                or self._waiting_bytes + len(frame) > MESSAGE_BYTES_MAX
            ):
                self._take()
            if not self._room.take(self._holder, len(frame)):
                await self._websocket.close(TRY_AGAIN_LATER, "too much is arriving at this moment")
                return
            self._frames.append(frame)
            self._waiting_bytes += len(frame)
            self._news.set()

    def clear(self) -> None:
        while self._frames:
            self._take()

    def _take(self) -> bytes | str:
        frame = self._frames.popleft()
        self._waiting_bytes -= len(frame)
        self._room.give_back(self._holder, len(frame))
        return frame

    async def next(self, idle_seconds: float) -> bytes | str:
        """Raises TimeoutError."""
        if not self._frames:
            self._news.clear()
            async with asyncio.timeout(idle_seconds):
                await self._news.wait()
        return self._take()


async def _serve(websocket: WebSocket, opened: Opened, inbox: _Inbox, runs: Runs) -> None:
    """Until the caller says nothing for too long, or may not call any more."""
    while True:
        try:
            frame = await inbox.next(opened.gateway.limits.realtime_idle_seconds)
        except TimeoutError:
            await websocket.send_text(error_frame("TIMEOUT", "no input came for too long"))
            await websocket.close(NORMAL_CLOSURE)
            return
        try:
            packed, run_seconds = await _answer(frame, opened, runs)
        except BadFrame as error:
            await websocket.send_text(error_frame("INVALID_INPUT", str(error)))
        except HttpError as error:
            await websocket.send_text(_error_frame(opened.gateway, error.answer))
        except Exception as error:
            answer = error_answer(translate(error))
            if answer.status in (401, 403):
                await websocket.send_text(_UNAUTHORIZED)
                await websocket.close(POLICY_VIOLATION, "the key or token is good no longer")
                return
            await websocket.send_text(_error_frame(opened.gateway, answer))
        else:
            await websocket.send_bytes(packed)
            await websocket.send_text(timings_frame(run_seconds))


async def _answer(frame: bytes | str, opened: Opened, runs: Runs) -> tuple[bytes, float]:
    """The frame to send, and how long the model ran. Raises BadFrame, HttpError and errors of
    the platform."""
    arguments = decode(frame)
    named = arguments.pop("request_id", None)
    call = await opened.call(arguments)

    async def pack(end: inference_pb2.RealtimeResponse) -> tuple[bytes, float]:
        finished = end.event.finished
        if finished.state != types_pb2.REQUEST_STATE_SUCCEEDED:
            answer = failure_answer(finished.failure)
            raise HttpError(answer.status, answer.detail, answer.error_type, answer.headers)
        output = await packed_output(call, finished, end.contents)
        known = isinstance(named, str) and 0 < len(named) <= REQUEST_ID_CHARS_MAX
        output["request_id"] = named if known else finished.request_id
        return encode(output), finished.receipt.run_ms / 1000

    return await runs.run(call, pack)


def _error_frame(gateway: Gateway, answer: ErrorAnswer) -> str:
    """Arguments at fault are INVALID_INPUT; anything else is called by its error type."""
    at_fault = answer.status in (400, 413, 422)
    code = "INVALID_INPUT" if at_fault else (answer.error_type or "internal_error").upper()
    detail = error_body(answer, gateway.public_url)["detail"]
    reason = detail if isinstance(detail, str) else render(detail)
    return error_frame(code, reason[:_REASON_CHARS_MAX])


def _buffering(text: str | None) -> int:
    if text is None:
        return BUFFERING_DEFAULT
    is_short_number = len(text) <= 4 and text.isascii() and text.isdecimal()
    if not is_short_number or not 1 <= int(text) <= BUFFERING_MAX:
        raise HttpError(
            400, f"max_buffering is {text[:40]!r}: give 1 to {BUFFERING_MAX}", "bad_request"
        )
    return int(text)
