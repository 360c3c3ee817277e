"""Performs an operation's steps by awaiting."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar, assert_never

import grpc
import grpc.aio
from google.protobuf.message import Message

from quickthaw.client.methods import REALTIME, RUN_MANY
from quickthaw.client.settings import Endpoint
from quickthaw.client.steps import (
    Call,
    Item,
    ItemT,
    Iteration,
    Offload,
    Open,
    Outcome,
    Read,
    Sleep,
    Step,
    Stream,
)
from quickthaw.client.transport import (
    check_open,
    dialler,
    error_of,
    metadata,
    serialize,
    unreached,
)
from quickthaw.v1 import inference_pb2
from quickthaw.wire.dialling import Retired
from quickthaw.wire.errors import QuickthawError

T = TypeVar("T")


class _Stream(Stream):
    def __init__(
        self, call: grpc.aio.UnaryStreamCall[Message, Message], timeout_seconds: float | None
    ) -> None:
        self.call = call
        self.timeout_seconds = timeout_seconds

    def cancel(self) -> None:
        self.call.cancel()


class AsyncDriver:
    """One channel, and what is sent with every call. Belongs to the event loop of its first use."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._metadata = metadata(endpoint)
        self._dialler = dialler(endpoint)
        self._renewable = self._dialler.renewable
        self._channel = self._dialler.open()
        self._retired = Retired()
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        await self._retired.close()
        await self._channel.close()

    async def drive(
        self, operation: Iteration[ItemT, T], on_item: Callable[[ItemT], object] | None = None
    ) -> T:
        """The operation's result. Its items go to `on_item`, whose errors go to the operation.

        An awaitable answer of `on_item` is awaited.
        """
        outcome: Outcome = None
        failure: BaseException | None = None
        while True:
            try:
                step = operation.send(outcome) if failure is None else operation.throw(failure)
            except StopIteration as end:
                # A generator's result has no better type than that of StopIteration.value.
                result: T = end.value
                return result
            outcome = failure = None
            try:
                if not isinstance(step, Item):
                    outcome = await self._perform(step)
                elif on_item is not None:
                    answer = on_item(step.value)
                    if inspect.isawaitable(answer):
                        await answer
            except BaseException as error:
                failure = error

    async def iterate(self, operation: Iteration[ItemT, object]) -> AsyncGenerator[ItemT, None]:
        """The operation's items. Closing the iterator ends the operation and its stream."""
        outcome: Outcome = None
        failure: BaseException | None = None
        try:
            while True:
                try:
                    step = operation.send(outcome) if failure is None else operation.throw(failure)
                except StopIteration:
                    return
                outcome = failure = None
                if isinstance(step, Item):
                    yield step.value
                    continue
                try:
                    outcome = await self._perform(step)
                except BaseException as error:
                    failure = error
        finally:
            operation.close()

    async def _perform(self, step: Step) -> Outcome:
        match step:
            case Call():
                return await self._call(step)
            case Open():
                return self._open(step)
            case Read():
                assert isinstance(step.stream, _Stream)
                return await self._read(step.stream)
            case Sleep():
                await asyncio.sleep(step.seconds)
                return None
            case Offload():
                await asyncio.to_thread(step.work)
                return None
            case _:
                assert_never(step)

    async def _call(self, step: Call) -> Message:
        check_open(self._closed)
        invoke = self._current().unary_unary(
            step.method.path, serialize, step.method.response.FromString
        )
        try:
            return await invoke(step.message, timeout=step.timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise await self.failed(error, step.timeout_seconds) from error

    def _open(self, step: Open) -> Stream:
        check_open(self._closed)
        invoke = self._current().unary_stream(
            step.method.path, serialize, step.method.response.FromString
        )
        call = invoke(step.message, timeout=step.timeout_seconds, metadata=self._metadata)
        return _Stream(call, step.timeout_seconds)

    async def _read(self, stream: _Stream) -> Message | None:
        try:
            answer = await stream.call.read()
        except grpc.RpcError as error:
            raise await self.failed(error, stream.timeout_seconds) from error
        return answer if isinstance(answer, Message) else None

    def open_realtime(
        self,
    ) -> grpc.aio.StreamStreamCall[Message, inference_pb2.RealtimeResponse]:
        """The raw call of a realtime session; `failed` reads its failures."""
        check_open(self._closed)
        invoke = self._current().stream_stream(
            REALTIME.path, serialize, REALTIME.response.FromString
        )
        return invoke(metadata=self._metadata)

    def open_run_many(self) -> grpc.aio.StreamStreamCall[Message, inference_pb2.RunManyResponse]:
        """The raw call of a `RunMany`; `failed` reads its failures."""
        check_open(self._closed)
        invoke = self._current().stream_stream(
            RUN_MANY.path, serialize, RUN_MANY.response.FromString
        )
        return invoke(metadata=self._metadata)

    async def failed(
        self, error: grpc.RpcError, timeout_seconds: float | None = None
    ) -> QuickthawError:
        """Our error for it."""
        text, trouble = unreached(error), None
        if text is not None:
            trouble = await asyncio.to_thread(self._dialler.trouble, text)
        return error_of(error, self._endpoint, timeout_seconds, trouble)

    def _current(self) -> grpc.aio.Channel:
        """Another one when the certificate was renewed; what is under way ends on the old one."""
        if self._renewable and self._dialler.refresh():
            self._retired.add(self._channel)
            self._channel = self._dialler.open()
        return self._channel
