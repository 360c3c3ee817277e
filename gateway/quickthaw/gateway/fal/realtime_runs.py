"""A connection's runs, one at a time, on one session with the scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from quickthaw.gateway.calls import Call
from quickthaw.gateway.fal.sockets import Opened
from quickthaw.gateway.platform import PAUSE_SECONDS, PAUSE_SECONDS_MAX
from quickthaw.gateway.realtime_stream import RealtimeStream
from quickthaw.gateway.violations import violations_from
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.errors import Unavailable

T = TypeVar("T")
Pack: TypeAlias = Callable[[inference_pb2.RealtimeResponse], Awaitable[T]]


class Runs:
    """Opens the session with the first input, and again after the scheduler was restarted."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._stream: RealtimeStream | None = None

    def close(self) -> None:
        """The scheduler cancels what is under way."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def run(self, call: Call, pack: Pack[T]) -> T:
        """What `pack` makes of the terminal request, which comes with its files' bytes unless they
        are large. It is made while the request is written down, and returned when that is done.

        A session that breaks has its requests cancelled by the scheduler, which is why the input
        may be sent again. Raises what `pack` raises, and HttpError and errors of the platform for
        an input that was refused.
        """
        submission = call.submission(keyed=False, unattended=True)
        give_up = time.monotonic() + self._opened.gateway.limits.reconnect_seconds
        pause_seconds = PAUSE_SECONDS
        while True:
            try:
                end, packed = await self._end(call, submission, pack)
            except Unavailable:
                if time.monotonic() + pause_seconds > give_up:
                    raise
            else:
                if end.HasField("refused"):
                    raise call.explain(_refusal(end.refused))
                return await pack(end) if packed is None else packed
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)

    async def _end(
        self, call: Call, submission: inference_pb2.SubmitRequest, pack: Pack[T]
    ) -> tuple[inference_pb2.RealtimeResponse, T | None]:
        """The end, and what was made of it already."""
        stream = self._stream
        if stream is None:
            stream = self._stream = call.gateway.platform.realtime(call.credential)
        try:
            end = await stream.run(submission)
            if not end.tentative:
                return end, None
            packed = await pack(end)
            settled = await stream.settle()
            return (end, packed) if settled.durable else (settled, None)
        except BaseException:
            self.close()
            raise


def _refusal(refused: types_pb2.Failure) -> errors.QuickthawError:
    error = errors.error_for_reason(refused.reason, refused.message)
    error.violations = violations_from(refused)
    return error
