"""A connection's runs, one at a time, on one session with the scheduler."""

from __future__ import annotations

import asyncio
import time

from quickthaw.gateway.calls import Call
from quickthaw.gateway.fal.sockets import Opened
from quickthaw.gateway.platform import PAUSE_SECONDS, PAUSE_SECONDS_MAX, RealtimeStream
from quickthaw.gateway.violations import violations_from
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.errors import Unavailable


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

    async def run(self, call: Call) -> inference_pb2.RealtimeResponse:
        """With the terminal request, and its files' bytes unless they are large.

        A session that breaks has its requests cancelled by the scheduler, which is why the input
        may be sent again. Raises HttpError and errors of the platform for one that was refused.
        """
        submission = call.submission()
        give_up = time.monotonic() + self._opened.gateway.limits.reconnect_seconds
        pause_seconds = PAUSE_SECONDS
        while True:
            try:
                end = await self._end(call, submission)
            except Unavailable:
                if time.monotonic() + pause_seconds > give_up:
                    raise
            else:
                if end.HasField("refused"):
                    raise call.explain(_refusal(end.refused))
                return end
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)

    async def _end(
        self, call: Call, submission: inference_pb2.SubmitRequest
    ) -> inference_pb2.RealtimeResponse:
        if self._stream is None:
            self._stream = call.gateway.platform.realtime(call.credential)
        try:
            return await self._stream.run(submission)
        except BaseException:
            self.close()
            raise


def _refusal(refused: types_pb2.Failure) -> errors.QuickthawError:
    error = errors.error_for_reason(refused.reason, refused.message)
    error.violations = violations_from(refused)
    return error
