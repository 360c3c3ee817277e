"""One realtime session with the scheduler, and what gRPC's errors are to the gateway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TypeAlias, cast

import grpc
import grpc.aio
from grpc_status import rpc_status

from quickthaw.v1 import inference_pb2
from quickthaw.wire.errors import QuickthawError, Unavailable
from quickthaw.wire.limits import CONTENTS_BYTES_MAX
from quickthaw.wire.status import error_from_rpc

# A string: the class is generic for the type checkers only.
RealtimeCall: TypeAlias = (
    "grpc.aio.StreamStreamCall[inference_pb2.RealtimeRequest, inference_pb2.RealtimeResponse]"
)


class RealtimeStream:
    """A session with the scheduler, used for one input at a time. A broken one stays broken."""

    def __init__(self, call: RealtimeCall) -> None:
        self._call = call
        self._inputs = 0

    def close(self) -> None:
        """The scheduler cancels what is still under way."""
        self._call.cancel()

    async def run(self, submission: inference_pb2.SubmitRequest) -> inference_pb2.RealtimeResponse:
        """One input's end or its refusal; an end that is `tentative` must not be told to anybody
        until `settle`. Raises Unavailable for a session that is over."""
        self._inputs += 1
        with our_errors():
            try:
                await self._call.write(
                    inference_pb2.RealtimeRequest(
                        tag=str(self._inputs),
                        submit=submission,
                        end_only=True,
                        contents_bytes_max=CONTENTS_BYTES_MAX,
                        tentative=True,
                    )
                )
            except asyncio.InvalidStateError as error:
                raise Unavailable("the session with the scheduler is over") from error
        return await self._answer()

    async def settle(self) -> inference_pb2.RealtimeResponse:
        """What became of the tentative end: it is durable, or refused. Raises as `run`."""
        return await self._answer()

    async def _answer(self) -> inference_pb2.RealtimeResponse:
        tag = str(self._inputs)
        with our_errors():
            while isinstance(answer := await self._call.read(), inference_pb2.RealtimeResponse):
                ended = answer.HasField("refused") or answer.event.HasField("finished")
                if answer.tag == tag and (ended or answer.durable):
                    return answer
        raise Unavailable("the scheduler ended the session")


@contextlib.contextmanager
def our_errors() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise our_error(error) from error


def our_error(error: grpc.aio.AioRpcError) -> QuickthawError:
    if error.code() is grpc.StatusCode.CANCELLED and is_bare(error):
        # We cancel calls by cancelling tasks, which raises something else: the server shut down.
        return Unavailable("the scheduler is shutting down; try again", retry_delay_seconds=1.0)
    if error.code() is grpc.StatusCode.UNAVAILABLE and is_bare(error):
        # What gRPC says of it has addresses that are no caller's business.
        return Unavailable("the scheduler cannot be reached; try again", retry_delay_seconds=1.0)
    return error_from_rpc(error)


def is_bare(error: grpc.aio.AioRpcError) -> bool:
    """Whether gRPC itself made the status: none of our servicers said anything."""
    return rpc_status.from_call(cast("grpc.Call", error)) is None
