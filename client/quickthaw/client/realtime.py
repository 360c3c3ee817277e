"""One session for many small requests, over one bidirectional stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, Unpack

import grpc
import grpc.aio

from quickthaw.client.async_driver import AsyncDriver
from quickthaw.client.convert import realtime_from_wire
from quickthaw.client.events import RealtimeAnswer
from quickthaw.client.inference import SubmitOptions, unrepeated_message
from quickthaw.client.requests import JsonObject
from quickthaw.client.retry import Context
from quickthaw.v1 import inference_pb2
from quickthaw.wire.errors import Unavailable


class RealtimeSession:
    """Send inputs under tags of your own; iterate over what happens to them.

    Each input is a journalled and billed request. Leaving the `async with` block cancels what is
    still queued or running. The session does not reconnect: a broken one raises Unavailable, and
    the server has then cancelled what was in flight.
    """

    def __init__(self, context: Context, driver: AsyncDriver) -> None:
        self._context = context
        self._driver = driver
        self._call = driver.open_realtime()

    async def send(
        self,
        tag: str,
        model: str,
        input: JsonObject | None = None,
        **options: Unpack[SubmitOptions],
    ) -> None:
        """Submits one input; waits while the stream's window is full. Raises Unavailable.

        An idempotency key is sent only where the caller names one.
        """
        message = unrepeated_message(self._context, model, input or {}, options)
        await self._write(inference_pb2.RealtimeRequest(tag=tag, submit=message))

    async def cancel(self, tag: str) -> None:
        """Cancels the input of this tag. Raises Unavailable."""
        await self._write(inference_pb2.RealtimeRequest(tag=tag, cancel=True))

    async def done_sending(self) -> None:
        """No more inputs; the iteration ends when the last answer has come. Raises Unavailable."""
        try:
            await self._call.done_writing()
        except grpc.RpcError as error:
            raise await self._driver.failed(error) from error
        except asyncio.InvalidStateError as error:
            raise Unavailable(f"the realtime session is over: {error}") from error

    async def __aiter__(self) -> AsyncIterator[RealtimeAnswer]:
        """Answers in the order of their arrival. Raises what the server ended the session with."""
        try:
            while isinstance(answer := await self._call.read(), inference_pb2.RealtimeResponse):
                yield realtime_from_wire(answer)
        except grpc.RpcError as error:
            raise await self._driver.failed(error) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call.cancel()

    async def _write(self, message: inference_pb2.RealtimeRequest) -> None:
        try:
            await self._call.write(message)
        except grpc.RpcError as error:
            raise await self._driver.failed(error) from error
        except asyncio.InvalidStateError as error:
            raise Unavailable(f"the realtime session is over: {error}") from error
