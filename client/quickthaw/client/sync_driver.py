"""Performs an operation's steps by blocking."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol, TypeVar, assert_never

import grpc
from google.protobuf.message import Message

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
from quickthaw.wire.errors import QuickthawError

T = TypeVar("T")


class _CallIterator(Protocol):
    """What a unary-stream call answers; grpc's own name for it is private."""

    def __iter__(self) -> Iterator[Message]: ...
    def __next__(self) -> Message: ...
    def cancel(self) -> bool: ...


class _Stream(Stream):
    def __init__(self, call: _CallIterator, timeout_seconds: float | None) -> None:
        self.call = call
        self.timeout_seconds = timeout_seconds

    def cancel(self) -> None:
        self.call.cancel()


class SyncDriver:
    """One channel, and what is sent with every call. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._metadata = metadata(endpoint)
        self._dialler = dialler(endpoint)
        self._renewable = self._dialler.renewable
        self._channel = self._dialler.open_blocking()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._channel.close()

    def drive(
        self, operation: Iteration[ItemT, T], on_item: Callable[[ItemT], object] | None = None
    ) -> T:
        """The operation's result. Its items go to `on_item`, whose errors go to the operation."""
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
                    outcome = self._perform(step)
                elif on_item is not None:
                    on_item(step.value)
            except BaseException as error:
                failure = error

    def iterate(self, operation: Iteration[ItemT, object]) -> Generator[ItemT, None, None]:
        """The operation's items. Leaving the loop early ends the operation and its stream."""
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
                    outcome = self._perform(step)
                except BaseException as error:
                    failure = error
        finally:
            operation.close()

    def _perform(self, step: Step) -> Outcome:
        match step:
            case Call():
                return self._call(step)
            case Open():
                return self._open(step)
            case Read():
                assert isinstance(step.stream, _Stream)
                return self._read(step.stream)
            case Sleep():
                time.sleep(step.seconds)
                return None
            case Offload():
                step.work()
                return None
            case _:
                assert_never(step)

    def _call(self, step: Call) -> Message:
        check_open(self._closed)
        invoke = self._current().unary_unary(
            step.method.path, serialize, step.method.response.FromString
        )
        try:
            return invoke(step.message, timeout=step.timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failed(error, step.timeout_seconds) from error

    def _open(self, step: Open) -> Stream:
        check_open(self._closed)
        invoke = self._current().unary_stream(
            step.method.path, serialize, step.method.response.FromString
        )
        call = invoke(step.message, timeout=step.timeout_seconds, metadata=self._metadata)
        return _Stream(call, step.timeout_seconds)

    def _read(self, stream: _Stream) -> Message | None:
        try:
            return next(stream.call, None)
        except grpc.RpcError as error:
            raise self._failed(error, stream.timeout_seconds) from error

    def _current(self) -> grpc.Channel:
        """Another one when the certificate was renewed; calls under way keep the old one alive."""
        if self._renewable and self._dialler.refresh():
            self._channel = self._dialler.open_blocking()
        return self._channel

    def _failed(self, error: grpc.RpcError, timeout_seconds: float | None) -> QuickthawError:
        text = unreached(error)
        trouble = None if text is None else self._dialler.trouble(text)
        return error_of(error, self._endpoint, timeout_seconds, trouble)
