"""Many Runs over one stream: no task, timer or message of its own for each of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
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
    cancelled: bool = False
    """Before there was a view."""


class RunMany:
    """Lives as long as its stream. A call counts as under way until its end has been sent, so a
    caller who does not read cannot make ends pile up; nor refusals, for then its calls are not
    read."""

    def __init__(
        self, tenant: str, submissions: Submissions, requests: Requests, in_flight_max: int
    ) -> None:
        self._tenant = tenant
        self._submissions = submissions
        self._requests = requests
        self._in_flight_max = in_flight_max
        self._calls: dict[int, _Call] = {}
        # By the tag of its call, in order.
        self._ends: deque[tuple[int, RequestView | errors.QuickthawError]] = deque()
        self._changed = asyncio.Event()
        self._sent = asyncio.Event()
        self._closing = False

    async def serve(
        self, frames: AsyncIterator[inference_pb2.RunManyRequest]
    ) -> AsyncGenerator[inference_pb2.RunManyResponse, None]:
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
        self._sent.set()
        frame, size_bytes = inference_pb2.RunManyResponse(), 0
        ends = frame.ends
        for _ in range(min(len(self._ends), SLICE_MAX)):
            tag, end = self._ends.popleft()
            message = ends.add()
            message.tag = tag
            if isinstance(end, errors.QuickthawError):
                # It never took a place; its tag may even be that of another call.
                message.refused.CopyFrom(convert.failure_message(end))
                continue
            self._calls.pop(tag, None)
            convert.fill_request(message.request, end)
            size_bytes += len(end.input_json) + len(end.output_json) + len(end.end_proto)
            if size_bytes >= FRAME_BYTES_MAX:
                break
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
                    while len(self._ends) > self._in_flight_max + limits.FRAME_MESSAGES_MAX:
                        self._sent.clear()
                        await self._sent.wait()
        except grpc.aio.AioRpcError:
            return  # the stream broke, which `serve` hears as well
        finally:
            self._closing = True
            self._changed.set()

    def _take_all(self, calls: Sequence[inference_pb2.RunCall]) -> None:
        key_id = ""
        for call in calls:
            try:
                match call.WhichOneof("kind"):
                    case "run":
                        # Once for a slice: it raises when the key is good no longer.
                        key_id = key_id or auth.caller().key_id
                        self._begin(call.tag, convert.submission(call.run, key_id))
                    case "cancel":
                        self._cancel(call.tag)
                    case None:
                        raise invalid("kind", "is missing: send `run` or `cancel`")
            except errors.QuickthawError as error:
                self._put(call.tag, error)

    def _cancel(self, tag: int) -> None:
        if (call := self._calls.get(tag)) is None:
            return
        if call.view is None:
            call.cancelled = True
        else:
            self._requests.cancel(call.view, "cancelled by the caller")

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
            self._put(tag, error)
            return
        call.view = request.view
        if call.unwanted:
            self._leave(call)
        else:
            self._requests.when_ended(request, partial(self._ended, tag))
            if call.cancelled:
                self._cancel(tag)

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
                if call.cancelled:
                    self._cancel(tag)
            self._put(tag, await self._requests.end_of(accepted))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            del self._calls[tag]
            self._put(tag, translate(error))

    def _ended(self, tag: int, end: RequestView | errors.QuickthawError) -> None:
        if isinstance(end, errors.QuickthawError):
            del self._calls[tag]
        self._put(tag, end)

    def _put(self, tag: int, end: RequestView | errors.QuickthawError) -> None:
        self._ends.append((tag, end))
        if len(self._ends) == 1:
            self._changed.set()
