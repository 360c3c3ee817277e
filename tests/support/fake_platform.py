"""A platform whose every answer a test writes, on a real gRPC server in a thread of its own.

The thread lets blocking and asyncio clients talk to it alike. A script is called with the request
message and answers with a message, raises, or is an async generator for a method that streams.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from quickthaw.client import Client, Context, RetryPolicy
from quickthaw.v1 import (
    billing_pb2,
    catalog_pb2,
    deployments_pb2,
    fleet_pb2,
    inference_pb2,
    webhooks_pb2,
)
from quickthaw.wire import errors
from quickthaw.wire.limits import SERVER_OPTIONS
from quickthaw.wire.status import ErrorInterceptor
from support.patience import PATIENCE_SECONDS

KEY = "qt_test_secret"
T = TypeVar("T")

QUICK = Context(
    retry=RetryPolicy(attempts_max=20, pause_seconds=0.02, pause_seconds_max=0.2, total_seconds=45),
    call_timeout_seconds=30.0,
)
"""The client's context in tests: patient in number, quick in pauses."""


@dataclass(frozen=True)
class Received:
    """One call as it arrived; for a method with a stream of requests, one of its messages."""

    method: str
    message: Any
    key: str | None


Script = Callable[[Any], Any]


class FakePlatform:
    """Use as a context manager, or `start` and `stop` it; a second start takes the same port."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.received: list[Received] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def calls(self, method: str) -> list[Any]:
        """The messages that arrived for a method, `Submit` for example, in order."""
        return [each.message for each in self.received if each.method == method]

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._wait(self._start())

    def stop(self) -> None:
        """Breaks every call off, as a killed server does."""
        self._wait(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()

    def event(self) -> asyncio.Event:
        """An event for scripts, of the platform's own loop."""
        return asyncio.Event()

    def wait_for(self, event: asyncio.Event) -> None:
        """Waits in the test's thread for an event that a script sets."""
        self._wait(event.wait())

    def set(self, event: asyncio.Event) -> None:
        """Sets such an event from the test's thread."""
        self._loop.call_soon_threadsafe(event.set)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(PATIENCE_SECONDS)

    async def _start(self) -> None:
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor()], options=list(SERVER_OPTIONS)
        )
        for file in (
            inference_pb2,
            catalog_pb2,
            deployments_pb2,
            fleet_pb2,
            billing_pb2,
            webhooks_pb2,
        ):
            for service in file.DESCRIPTOR.services_by_name.values():
                handlers = {
                    method.name: self._handler(method, _script_name(service.name, method.name))
                    for method in service.methods
                }
                self._server.add_generic_rpc_handlers(
                    [grpc.method_handlers_generic_handler(service.full_name, handlers)]
                )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _handler(self, method: MethodDescriptor, name: str) -> grpc.RpcMethodHandler[Any, Any]:
        # Descriptors of two flavours, typed apart; the class is the same.
        request = GetMessageClass(cast("Any", method.input_type))

        async def unary(message: Message, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            answer = self._answer(name, message, context)
            return await answer if isinstance(answer, Awaitable) else answer

        async def stream(
            message: Message, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[object]:
            async for answer in self._answer(name, message, context):
                yield answer

        make: Any = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        if method.client_streaming:
            make = grpc.stream_stream_rpc_method_handler
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            stream if method.server_streaming else unary,
            request_deserializer=request.FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )
        return handler

    def _answer(
        self, method: str, message: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        key = dict(context.invocation_metadata() or ()).get("authorization")
        self.received.append(Received(method, message, None if key is None else str(key)))
        if method == "WebhooksGet" and method not in self.scripts:
            raise errors.WebhookNotFound("nobody is told")
        if method not in self.scripts:
            raise errors.Internal(f"the test has no script for {method}")
        return self.scripts[method](message)


def _script_name(service: str, method: str) -> str:
    """Webhooks and deployments have calls of the same names as requests."""
    return f"{service}{method}" if service in ("Webhooks", "Deployments") else method


@contextmanager
def a_platform() -> Iterator[tuple[FakePlatform, Client]]:
    """A platform and a blocking client of it."""
    with FakePlatform() as platform, Client(platform.address, KEY, context=QUICK) as client:
        yield platform, client
