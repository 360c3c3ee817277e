"""The worker's line to the scheduler: one channel, and another when its certificate was renewed."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from quickthaw.v1 import fleet_pb2
from quickthaw.wire import errors
from quickthaw.wire.dialling import Dialler


class Line:
    """Belongs to the event loop of its first use."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._channel = dialler.open()
        self._told: str | None = None

    async def channel(self) -> grpc.aio.Channel:
        """For the next stream. Ends what goes by an earlier channel if the files have changed."""
        if self._dialler.refresh():
            old, self._channel = self._channel, self._dialler.open()
            await old.close()
        return self._channel

    async def why(self, text: str) -> str:
        """What to tell of a stream that failed with `text`.

        Trouble with TLS is told as what it is, and once: a certificate may be renewed at any time,
        so the worker goes on trying, and has nothing new to say until it is something else.
        """
        trouble = await asyncio.to_thread(self._dialler.trouble, text)
        told, self._told = self._told, trouble
        if trouble is None:
            return text
        return "" if trouble == told else f"{trouble}; tried again until it is mended"

    async def close(self) -> None:
        await self._channel.close()


async def raise_status(
    call: grpc.aio.StreamStreamCall[fleet_pb2.WorkerFrame, fleet_pb2.SchedulerFrame],
) -> None:
    """Raises what the stream ended with; Unavailable if it ended without an error."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            details=await call.details(),
        )
    raise errors.Unavailable("the scheduler closed the stream")
