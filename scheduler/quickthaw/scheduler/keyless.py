"""Calls that need no key, health and reflection: bounded apart from those that do.

gRPC counts all open calls alike. Whoever has no key can hold one for as long as it likes, by
watching, or by never sending what it began to ask, so these have a bound of their own for each
method: a flood of one leaves the probes of another, and every caller with a key, where they were.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

# Health and reflection say nothing about anyone, and probes have no keys.
OPEN_SERVICES = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "grpc.reflection.v1.ServerReflection",
    }
)
REQUEST_SECONDS = 10.0
"""For a method's one request, once its call has begun."""

# Strings: these are generic for the type checkers only. What goes through is none of ours.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class KeylessCalls:
    """Belongs to the event loop."""

    def __init__(self, rpcs_max: int) -> None:
        self._rpcs_max = rpcs_max
        self._open: Counter[str] = Counter()

    def bounded(self, method: str, handler: Handler) -> Handler:
        """The same method, but RESOURCE_EXHAUSTED where too many of its calls are open.

        It is served as a stream both ways, since on the wire all kinds are alike: a handler of one
        request would be asked only when that is there.
        """

        async def serve(requests: AsyncIterator[object], context: Context) -> None:
            if self._open[method] >= self._rpcs_max:
                told = f"{self._rpcs_max} calls of {method} are open; try again later"
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, told)
            self._open[method] += 1
            try:
                await _serve(handler, requests, context)
            finally:
                self._open[method] -= 1

        make = cast("Callable[..., Handler]", grpc.stream_stream_rpc_method_handler)
        return make(serve, handler.request_deserializer, handler.response_serializer)


async def _serve(handler: Handler, requests: AsyncIterator[object], context: Context) -> None:
    behaviour: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    asked: object = requests if handler.request_streaming else await _one(requests, context)
    if inspect.isasyncgenfunction(behaviour):
        async for response in behaviour(asked, context):
            await context.write(response)
        return
    answer = await behaviour(asked, context)
    if not handler.response_streaming:
        await context.write(answer)


async def _one(requests: AsyncIterator[object], context: Context) -> object:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await anext(requests)
    except (TimeoutError, StopAsyncIteration):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no request")
        raise  # What `abort` has done already, in a way that the type checkers cannot see.
