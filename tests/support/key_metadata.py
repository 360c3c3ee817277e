"""Sends a key with every call, as the metadata that the scheduler asks for."""

from __future__ import annotations

from typing import Any

import grpc.aio

# The stubs of grpcio leave out most of what interceptors are given, so these are Any.


def _with_key(details: Any, key: str) -> Any:
    metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Key {key}"))
    return details._replace(metadata=metadata)


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, key: str) -> None:
        self._key = key

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_with_key(details, self._key), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, key: str) -> None:
        self._key = key

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_with_key(details, self._key), request)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, key: str) -> None:
        self._key = key

    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(_with_key(details, self._key), requests)


def key_interceptors(key: str) -> list[grpc.aio.ClientInterceptor]:
    return [_Unary(key), _UnaryStream(key), _StreamStream(key)]
