"""Many Runs over one stream: no task, timer or message of its own for each of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

import grpc.aio

from quickthaw.scheduler import auth
from quickthaw.scheduler.convert import requests as convert
from quickthaw.scheduler.convert.words import invalid
from quickthaw.scheduler.live import LiveRequest
from quickthaw.scheduler.requests import Requests
from quickthaw.scheduler.slices import SLICE_MAX, slices
from quickthaw.scheduler.submissions import Submissions
from quickthaw.scheduler.views import RequestView
from quickthaw.v1 import inference_pb2
from quickthaw.wire import errors, limits
from quickthaw.wire.status import translate

FRAME_BYTES_MAX = 1024 * 1024
"""A frame is full from here on; one end may be larger."""


@dataclass(slots=True)
class _Call:
    """`view` is None until the call is durable; `task` looks an idempotency key up."""

    view: RequestView | None = None
    task: asyncio.Task[None] | None = None
    unwanted: bool = False


class RunMany:
    """Lives as long as its stream. A call counts as under way until its end has been sent, so a
    caller who does not read cannot make ends pile up."""

    def __init__(
        self, tenant: str, submissions: Submissions, requests: Requests, in_flight_max: int
    ) -> None:
        self._tenant = tenant
        self._submissions = submissions
        self._requests = requests
        self._in_flight_max = in_flight_max
        self._calls: dict[int, _Call] = {}
        self._ends: deque[inference_pb2.RunEnd] = deque()
        self._changed = asyncio.Event()
        self._closing = False

    async def serve(
        self, frames: AsyncIterator[inference_pb2.RunManyRequest]
    ) -> AsyncIterator[inference_pb2.RunManyResponse]:
        reading = asyncio.create_task(self._read(frames))
        try:
            while self._ends or self._calls or not self._closing:
                if self._ends:
                    yield self._frame()
                else:
                    self._changed.clear()
                    await self._changed.wait()
            reading.result()
        finally:
            reading.cancel()
            for call in self._calls.values():
                self._leave(call)

    def _frame(self) -> inference_pb2.RunManyResponse:
        frame, size_bytes = inference_pb2.RunManyResponse(), 0
        while self._ends and size_bytes < FRAME_BYTES_MAX and len(frame.ends) < SLICE_MAX:
            end = self._ends.popleft()
            if end.HasField("request"):
                # A refusal never took a place; its tag may even be that of another call.
                self._calls.pop(end.tag, None)
            size_bytes += end.ByteSize()
            frame.ends.append(end)
        return frame

    def _leave(self, call: _Call) -> None:
        """Nobody waits for it any more."""
        call.unwanted = True
        if call.task is not None:
            call.task.cancel()
        if call.view is not None:
            self._requests.cancel(call.view, "the caller of RunMany went away")

    async def _read(self, frames: AsyncIterator[inference_pb2.RunManyRequest]) -> None:
        try:
            async for frame in frames:
                if len(frame.calls) > limits.FRAME_MESSAGES_MAX:
                    raise invalid("calls", f"must be at most {limits.FRAME_MESSAGES_MAX} a frame")
                for some in slices(frame.calls):
                    self._take_all(some)
                    await asyncio.sleep(0)
        except grpc.aio.AioRpcError:
            return  # the stream broke, which `serve` hears as well
        finally:
            self._closing = True
            self._changed.set()

    def _take_all(self, calls: Sequence[inference_pb2.RunCall]) -> None:
        for call in calls:
            try:
                self._take(call)
            except errors.QuickthawError as error:
                self._refuse(call.tag, error)

    def _take(self, message: inference_pb2.RunCall) -> None:
        match message.WhichOneof("kind"):
            case "cancel":
                call = self._calls.get(message.tag)
                if call is not None and call.view is not None:
                    self._requests.cancel(call.view, "cancelled by the caller")
            case "run":
                self._begin(message.tag, convert.submission(message.run, auth.caller().key_id))
            case None:
                raise invalid("kind", "is missing: send `run` or `cancel`")

    def _begin(self, tag: int, submission: convert.Submission) -> None:
        if tag in self._calls:
            raise invalid("tag", f"{tag} is in use; each call under way needs its own")
        if len(self._calls) >= self._in_flight_max:
            raise errors.ResourceExhausted(
                f"{self._in_flight_max} calls of this stream are under way; wait for one to end",
                retry_delay_seconds=0.1,
            )
        if submission.idempotency_key:
            task = asyncio.create_task(self._run_once(tag, submission))
            self._calls[tag] = _Call(task=task)
            return
        if (begun := self._submissions.begin_ahead(self._tenant, submission)) is not None:
            self._calls[tag] = _Call(begun.view)
            self._requests.when_ended(begun, partial(self._ended, tag))
            return
        self._submissions.begin(self._tenant, submission, partial(self._journalled, tag))
        self._calls[tag] = _Call()

    def _journalled(
        self, tag: int, request: LiveRequest, error: errors.QuickthawError | None
    ) -> None:
        call = self._calls[tag]
        if error is not None:
            del self._calls[tag]
            self._refuse(tag, error)
            return
        call.view = request.view
        if call.unwanted:
            self._leave(call)
        else:
            self._requests.when_ended(request, partial(self._ended, tag))

    async def _run_once(self, tag: int, submission: convert.Submission) -> None:
        """With an idempotency key: it may lead to a request of some other call."""
        call = self._calls[tag]
        try:
            accepted = await self._submissions.submit_while_wanted(
                self._tenant,
                submission,
                lambda view: self._requests.cancel(view, "the caller of RunMany went away"),
            )
            if not accepted.deduplicated:
                call.view = accepted.view
            view = await self._requests.end_of(accepted)
            self._put(inference_pb2.RunEnd(tag=tag, request=convert.request_message(view)))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            del self._calls[tag]
            self._refuse(tag, translate(error))

    def _ended(self, tag: int, end: RequestView | errors.QuickthawError) -> None:
        if isinstance(end, errors.QuickthawError):
            del self._calls[tag]
            self._refuse(tag, end)
        else:
            self._put(inference_pb2.RunEnd(tag=tag, request=convert.request_message(end)))

    def _refuse(self, tag: int, error: errors.QuickthawError) -> None:
        self._put(inference_pb2.RunEnd(tag=tag, refused=convert.failure_message(error)))

    def _put(self, end: inference_pb2.RunEnd) -> None:
        self._ends.append(end)
        self._changed.set()
