"""Many runs over one bidirectional stream: for callers to whom the cost of a call matters."""

from __future__ import annotations

import asyncio
import itertools
from types import TracebackType
from typing import Self, TypeAlias, Unpack

import grpc
import grpc.aio
from google.protobuf.message import Message

from quickthaw.client.async_driver import AsyncDriver
from quickthaw.client.convert import failure_from_wire, request_from_wire
from quickthaw.client.inference import SubmitOptions, unrepeated_message
from quickthaw.client.requests import JsonObject, Request
from quickthaw.client.retry import Context
from quickthaw.v1 import inference_pb2
from quickthaw.wire.errors import QuickthawError, Unavailable
from quickthaw.wire.limits import FRAME_MESSAGES_MAX

# A string: the class is generic for the type checkers only.
_Stream: TypeAlias = "grpc.aio.StreamStreamCall[Message, inference_pb2.RunManyResponse]"


class RunMany:
    """Each `run` is one request, as `AsyncClient.run`; any number may be awaited at once.

        async with client.run_many() as many:
            runs = (many.run("quickthaw/shapes", each) for each in inputs)
            requests = await asyncio.gather(*runs)

    Several times the rate of single calls, because calls and answers travel in shared messages.
    Nothing is tried again: when the stream breaks, what was under way raises Unavailable and the
    server cancels it. Leaving the block cancels what has not ended.
    """

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver
        self._tags = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Request]] = {}
        self._calls: list[inference_pb2.RunCall] = []
        self._changed = asyncio.Event()
        self._broken: QuickthawError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def run(
        self,
        model: str,
        input: JsonObject | None = None,
        *,
        raise_for_failure: bool = True,
        **options: Unpack[SubmitOptions],
    ) -> Request:
        """As `AsyncClient.run`, with its errors; cancelling the awaiting task cancels the request.

        An idempotency key is sent only where the caller names one. ResourceExhausted: more calls
        are under way on this stream than the server allows (1000 by default).
        """
        if self._broken is not None:
            raise self._broken
        message = unrepeated_message(self._context, model, input or {}, options)
        tag = next(self._tags)
        answer: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
        self._waiting[tag] = answer
        self._send(inference_pb2.RunCall(tag=tag, run=message))
        try:
            request = await answer
        except asyncio.CancelledError:
            self._send(inference_pb2.RunCall(tag=tag, cancel=True))
            raise
        finally:
            self._waiting.pop(tag, None)
        return request.raise_for_failure() if raise_for_failure else request

    async def __aenter__(self) -> Self:
        call = self._driver.open_run_many()
        self._call = call
        self._tasks = [
            asyncio.create_task(self._write(call)),
            asyncio.create_task(self._read(call)),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._break(Unavailable("the stream of runs was closed"))
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, call: inference_pb2.RunCall) -> None:
        self._calls.append(call)
        self._changed.set()

    async def _write(self, call: _Stream) -> None:
        """Sends whatever has gathered while the last message was being sent."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._calls:
                    some, self._calls = (
                        self._calls[:FRAME_MESSAGES_MAX],
                        self._calls[FRAME_MESSAGES_MAX:],
                    )
                    await call.write(inference_pb2.RunManyRequest(calls=some))
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader hears why

    async def _read(self, call: _Stream) -> None:
        try:
            while isinstance(frame := await call.read(), inference_pb2.RunManyResponse):
                for end in frame.ends:
                    self._resolve(end)
        except grpc.RpcError as error:
            self._break(await self._driver.failed(error))
        else:
            self._break(Unavailable("the server ended the stream of runs"))

    def _resolve(self, end: inference_pb2.RunEnd) -> None:
        answer = self._waiting.get(end.tag)
        if answer is None or answer.done():
            return
        if end.HasField("request"):
            answer.set_result(request_from_wire(end.request))
        else:
            answer.set_exception(failure_from_wire(end.refused).to_error())

    def _break(self, why: QuickthawError) -> None:
        self._broken = self._broken or why
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(why)
