"""One realtime session: many small requests over one stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from functools import partial

from quickthaw.scheduler import auth
from quickthaw.scheduler.artifacts import Artifacts
from quickthaw.scheduler.convert import requests as convert
from quickthaw.scheduler.convert.words import checked_text, invalid
from quickthaw.scheduler.core.commands import RequestEnd, Requeued
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.holds import Holds
from quickthaw.scheduler.live import LiveRequest
from quickthaw.scheduler.requests import Requests
from quickthaw.scheduler.submissions import Accepted, Submissions
from quickthaw.scheduler.views import RequestView
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.limits import CONTENTS_BYTES_MAX
from quickthaw.wire.status import translate

logger = logging.getLogger(__name__)

TAG_CHARS_MAX = 200
OUTBOUND_MAX = 256
"""Answers that may wait for a slow reader; then the session's requests wait with them."""


class RealtimeSession:
    """Lives as long as its stream. The worker that ran the last request is hinted for the next, and
    held for it: see `holds`."""

    def __init__(
        self,
        tenant: str,
        submissions: Submissions,
        requests: Requests,
        artifacts: Artifacts,
        holds: Holds,
        in_flight_max: int,
    ) -> None:
        self._tenant = tenant
        self._submissions = submissions
        self._requests = requests
        self._artifacts = artifacts
        self._holds = holds
        self._in_flight_max = in_flight_max
        self._running: dict[str, asyncio.Task[None]] = {}
        self._views: dict[str, RequestView] = {}
        """Of those that are the session's own and durable, or begun before they are."""
        self._cancelled: set[str] = set()
        """Those that were cancelled before they were in `_views`."""
        self._tentative: dict[str, str] = {}
        """By tag of those whose end was told before it was durable: the worker that ran it; empty
        once it was told that it is durable."""
        self._worker_hint = ""
        # None says that nothing more will come.
        self._outbound: asyncio.Queue[inference_pb2.RealtimeResponse | None] = asyncio.Queue(
            OUTBOUND_MAX
        )

    async def serve(
        self, inputs: AsyncIterator[inference_pb2.RealtimeRequest]
    ) -> AsyncGenerator[inference_pb2.RealtimeResponse, None]:
        reading = asyncio.create_task(self._read(inputs))
        try:
            while (response := await self._outbound.get()) is not None:
                yield response
            await reading
        finally:
            self._holds.give_up(self)
            reading.cancel()
            for task in self._running.values():
                task.cancel()
            for view in self._views.values():
                self._session_gone(view)

    def _session_gone(self, view: RequestView) -> None:
        self._requests.cancel(view, "the realtime session ended")

    async def _read(self, inputs: AsyncIterator[inference_pb2.RealtimeRequest]) -> None:
        """Until the caller closes its side and what it asked for has ended."""
        try:
            async for message in inputs:
                try:
                    self._take(message)
                except errors.QuickthawError as error:
                    await self._refuse(message.tag, error)
            if self._running:
                await asyncio.wait(self._running.values())
        except Exception:
            await self._outbound.put(None)
            raise
        # Not where this is cancelled: nobody takes anything from the queue then, which may be full.
        await self._outbound.put(None)

    def _take(self, message: inference_pb2.RealtimeRequest) -> None:
        tag = checked_text("tag", message.tag, chars_max=TAG_CHARS_MAX, required=True)
        match message.WhichOneof("kind"):
            case "cancel":
                self._cancel(tag)
            case "submit":
                self._begin(tag, message)
            case None:
                raise invalid("kind", "is missing: send `submit` or `cancel`")

    def _cancel(self, tag: str) -> None:
        if (view := self._views.get(tag)) is not None:
            self._requests.cancel(view, "cancelled by the caller")
        elif tag in self._running:
            self._cancelled.add(tag)

    def _begin(self, tag: str, message: inference_pb2.RealtimeRequest) -> None:
        if tag in self._running:
            raise invalid("tag", f"{tag!r} is in use; each input of a session needs its own")
        if len(self._running) >= self._in_flight_max:
            raise errors.ResourceExhausted(
                f"{self._in_flight_max} inputs of this session are in flight; wait for one to end",
                retry_delay_seconds=0.1,
            )
        given = convert.submission(message.submit, auth.caller().key_id)
        hint = given.worker_hint or self._worker_hint
        # What is sent along is stored after its end: not where that will be asked for again.
        again = bool(given.idempotency_key) or given.webhook is not None
        submission = replace(
            given,
            contents_bytes_max=0 if again else min(message.contents_bytes_max, CONTENTS_BYTES_MAX),
            worker_hint=hint,
            # Of several inputs in flight one goes ahead: the worker is held for a run, not a burst.
            ahead=not self._running and self._holds.has(hint, self),
        )
        begun = None
        if not submission.idempotency_key:
            begun = self._submissions.begin_ahead(self._tenant, submission)
        if begun is not None:
            self._views[tag] = begun.view
            if message.tentative and message.end_only:
                begun.tell_tentatively = partial(self._tell_tentatively, tag, begun)
        task = asyncio.create_task(self._run(message, submission, begun))
        self._running[tag] = task
        task.add_done_callback(lambda _done: self._running.pop(tag, None))

    async def _run(
        self,
        message: inference_pb2.RealtimeRequest,
        submission: convert.Submission,
        begun: LiveRequest | None,
    ) -> None:
        tag = message.tag
        try:
            if begun is None:
                accepted = await self._submissions.submit_while_wanted(
                    self._tenant, submission, self._session_gone
                )
            else:
                accepted = Accepted(begun.view, begun)
            view = accepted.view
            if not accepted.deduplicated:
                self._views[tag] = view
                if tag in self._cancelled:
                    self._cancel(tag)
            if message.end_only:
                ended = await self._requests.end_of(accepted)
                if (worker_id := self._tentative.pop(tag, None)) is not None:
                    if worker_id:
                        self._ran_on(worker_id)
                        await self._outbound.put(_durable(tag))
                    return
                event = convert.event_message(view.request_id, 1, ended.finished_ms, ended)
                await self._tell(message, event, accepted.request)
                return
            async for entry in self._requests.watch(self._tenant, view.request_id, 0):
                event = convert.event_message(
                    view.request_id, entry.sequence, entry.unix_ms, entry.payload
                )
                await self._tell(message, event, accepted.request)
        except errors.QuickthawError as error:
            await self._refuse(tag, error)
        except Exception as error:
            await self._refuse(tag, translate(error))
        finally:
            self._views.pop(tag, None)
            self._tentative.pop(tag, None)
            self._cancelled.discard(tag)

    def _tell_tentatively(
        self, tag: str, request: LiveRequest, then: RequestEnd | Requeued
    ) -> None:
        """While the end is written. Where this is not done the end is told as usual."""
        if tag not in self._running or self._outbound.full():
            return
        if not isinstance(then, RequestEnd) or then.state is not RequestState.SUCCEEDED:
            return
        ended = request.ended(then)
        event = convert.event_message(ended.request_id, 1, ended.finished_ms, ended)
        if len(request.contents) == len(event.finished.artifacts):
            self._tentative[tag] = event.finished.receipt.worker_id
            request.waiters.append(partial(self._tell_durable, tag))
            self._outbound.put_nowait(
                inference_pb2.RealtimeResponse(
                    tag=tag, event=event, contents=request.contents, tentative=True
                )
            )

    def _tell_durable(self, tag: str, end: RequestView | errors.QuickthawError) -> None:
        """At once, for somebody has the answer in hand. Where this is not done `_run` does it."""
        worker_id = self._tentative.get(tag)
        if worker_id and isinstance(end, RequestView) and not self._outbound.full():
            self._tentative[tag] = ""
            self._ran_on(worker_id)
            self._outbound.put_nowait(_durable(tag))

    def _ran_on(self, worker_id: str) -> None:
        self._worker_hint = worker_id
        self._holds.take(worker_id, self)

    async def _tell(
        self,
        message: inference_pb2.RealtimeRequest,
        event: inference_pb2.Event,
        request: LiveRequest | None,
    ) -> None:
        answer = inference_pb2.RealtimeResponse(tag=message.tag, event=event)
        if event.HasField("finished"):
            if worker_id := event.finished.receipt.worker_id:
                self._ran_on(worker_id)
            sent = request.contents if request is not None else ()
            bytes_max = min(message.contents_bytes_max, CONTENTS_BYTES_MAX)
            answer.contents.extend(sent or await self._contents(event.finished, bytes_max))
        await self._outbound.put(answer)

    async def _contents(self, finished: types_pb2.Request, bytes_max: int) -> list[bytes]:
        """From the blob store, for a worker that sent none. None of them if they are too large, or
        if one cannot be read: it is asked for again, and the caller is told then what is wrong."""
        if sum(artifact.size_bytes for artifact in finished.artifacts) > bytes_max:
            return []
        try:
            return [
                b"".join([chunk async for chunk in self._artifacts.read(artifact)])
                for artifact in finished.artifacts
            ]
        except errors.QuickthawError:
            return []

    async def _refuse(self, tag: str, error: errors.QuickthawError) -> None:
        refused = convert.failure_message(error)
        await self._outbound.put(inference_pb2.RealtimeResponse(tag=tag, refused=refused))


def _durable(tag: str) -> inference_pb2.RealtimeResponse:
    return inference_pb2.RealtimeResponse(tag=tag, durable=True)
