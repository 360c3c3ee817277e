"""The workers: their streams, and what operators do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc.aio

from quickthaw.scheduler import auth
from quickthaw.scheduler.artifacts import Artifacts
from quickthaw.scheduler.catalog import Catalog
from quickthaw.scheduler.convert.fleet import worker_message
from quickthaw.scheduler.convert.words import invalid
from quickthaw.scheduler.convert.workers import finished, heard, hello
from quickthaw.scheduler.core import events
from quickthaw.scheduler.core.model import RequestId, WorkerId
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.explanations import Explanations
from quickthaw.scheduler.keys import Scope
from quickthaw.scheduler.metrics import SchedulerMetrics
from quickthaw.scheduler.requests import Requests
from quickthaw.scheduler.slices import SLICE_MAX, slices
from quickthaw.scheduler.worker_streams import WorkerStream, WorkerStreams
from quickthaw.v1 import fleet_pb2, fleet_pb2_grpc
from quickthaw.wire import errors, limits
from quickthaw.wire.status import translate

Context = grpc.aio.ServicerContext[object, object]


_ABOUT_OTHERS = frozenset({"dedicated", "reserved"})
"""Reasons whose details name an endpoint or a request."""


class FleetServicer(fleet_pb2_grpc.FleetServicer):
    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        streams: WorkerStreams,
        requests: Requests,
        catalog: Catalog,
        metrics: SchedulerMetrics,
        explanations: Explanations,
        artifacts: Artifacts,
    ) -> None:
        self._dispatcher = dispatcher
        self._streams = streams
        self._requests = requests
        self._catalog = catalog
        self._metrics = metrics
        self._explanations = explanations
        self._artifacts = artifacts

    async def Attach(
        self, request_iterator: AsyncIterator[fleet_pb2.WorkerFrame], context: Context
    ) -> AsyncIterator[fleet_pb2.SchedulerFrame]:
        frames = aiter(request_iterator)
        first = await anext(frames, None)
        if first is None or not first.messages or not first.messages[0].HasField("hello"):
            raise invalid("hello", "must be the first message of the stream")
        said = first.messages[0].hello
        facts = list(hello(said))
        if said.blob_store_mark and not await self._artifacts.is_marked(said.blob_store_mark):
            raise errors.FailedPrecondition(
                "this worker's --blob-store is not the scheduler's: nobody would find what it "
                "makes; give both the same one, a bucket or a folder that both reach"
            )
        await self._streams.wait_for_id(said.worker_id, said.incarnation)
        stream = self._streams.open(said.worker_id, said.incarnation)
        for fact in facts:
            if not self._is_old_news(fact):
                self._dispatcher.feed(fact)
        reading = asyncio.create_task(self._read(stream, first, frames))
        count = self._metrics.streams.labels("attach")
        count.inc()
        try:
            while True:
                yield await stream.next_frame()
        finally:
            count.dec()
            reading.cancel()
            if self._streams.leave(stream):
                self._dispatcher.feed(events.WorkerDisconnected(WorkerId(stream.worker_id)))

    async def _read(
        self,
        stream: WorkerStream,
        first: fleet_pb2.WorkerFrame,
        frames: AsyncIterator[fleet_pb2.WorkerFrame],
    ) -> None:
        """Until the worker closes its side, says something impossible, or is followed by a newer
        stream; then the other side ends too."""
        try:
            self._hear(stream, _bounded(first)[1:])
            async for frame in frames:
                stream.spoke()
                auth.caller()  # Raises once the key is good no longer.
                await self._dispatcher.wait_for_room()
                if not self._streams.is_current(stream):
                    return
                for some in slices(_bounded(frame)):
                    self._hear(stream, some)
                    if len(some) == SLICE_MAX:
                        await asyncio.sleep(0)  # what came of a full one is sent first
            stream.close(errors.Unavailable("the worker closed its side of the stream"))
        except errors.QuickthawError as error:
            stream.close(error)
        except grpc.aio.AioRpcError:
            stream.close(errors.Unavailable("the worker's stream broke"))
        except Exception as error:
            # A bug of ours: the worker connects again, which is better than being read no more.
            stream.close(translate(error))

    def _hear(self, stream: WorkerStream, messages: Sequence[fleet_pb2.WorkerMessage]) -> None:
        worker_id, dispatcher = WorkerId(stream.worker_id), self._dispatcher
        now_ms = dispatcher.clock.now_ms()  # once for a slice, which takes a few milliseconds
        for message in messages:
            if message.WhichOneof("kind") == "finished":
                dispatcher.feed(finished(worker_id, message.finished), now_ms)
                continue
            for fact in heard(worker_id, message):
                if isinstance(fact, fleet_pb2.AttemptEvent):
                    dispatcher.attempt_event(worker_id, fact)
                elif not self._is_old_news(fact):
                    dispatcher.feed(fact, now_ms)

    def _is_old_news(self, fact: events.Event) -> bool:
        """A worker that drains says so in every heartbeat."""
        if not isinstance(fact, events.DrainRequested):
            return False
        worker = self._dispatcher.machine.worker(fact.worker_id)
        return worker is None or worker.draining

    # ---- operators ---------------------------------------------------------------------------

    async def ListWorkers(
        self, request: fleet_pb2.ListWorkersRequest, context: Context
    ) -> fleet_pb2.ListWorkersResponse:
        workers = sorted(self._dispatcher.machine.workers(), key=lambda each: each.worker_id)
        return fleet_pb2.ListWorkersResponse(
            workers=[self._message(each.worker_id) for each in workers],
            workers_wanted=self._dispatcher.machine.workers_wanted(self._dispatcher.clock.now_ms()),
            estimate_checks=[
                fleet_pb2.EstimateCheck(
                    kind=kind,
                    tested=each.observations,
                    within_p50=each.under_p50,
                    within_p95=each.under_p95,
                )
                for kind, each in self._dispatcher.machine.calibration().items()
            ],
        )

    async def Drain(
        self, request: fleet_pb2.DrainRequest, context: Context
    ) -> fleet_pb2.DrainResponse:
        worker_id = self._known(request.worker_id)
        self._dispatcher.feed(events.DrainRequested(worker_id, request.stop))
        answer = fleet_pb2.DrainResponse(worker=self._message(worker_id))
        await self._dispatcher.durable()
        return answer

    async def Cordon(
        self, request: fleet_pb2.CordonRequest, context: Context
    ) -> fleet_pb2.CordonResponse:
        worker_id = self._known(request.worker_id)
        self._dispatcher.feed(events.CordonRequested(worker_id))
        answer = fleet_pb2.CordonResponse(worker=self._message(worker_id))
        await self._dispatcher.durable()
        return answer

    async def Uncordon(
        self, request: fleet_pb2.UncordonRequest, context: Context
    ) -> fleet_pb2.UncordonResponse:
        worker_id = self._known(request.worker_id)
        self._dispatcher.feed(events.UncordonRequested(worker_id))
        answer = fleet_pb2.UncordonResponse(worker=self._message(worker_id))
        await self._dispatcher.durable()
        return answer

    async def Explain(
        self, request: fleet_pb2.ExplainRequest, context: Context
    ) -> fleet_pb2.ExplainResponse:
        view = await self._requests.find(auth.caller().tenant, request.request_id)
        decisions = await self._explanations.find(view.request_id)
        if not auth.caller().may(Scope.ADMIN):
            decisions = [_without_others(each) for each in decisions]
        return fleet_pb2.ExplainResponse(request_id=view.request_id, decisions=decisions)

    def _known(self, worker_id: str) -> WorkerId:
        """Raises WorkerNotFound."""
        if self._dispatcher.machine.worker(WorkerId(worker_id)) is None:
            raise errors.WorkerNotFound(
                f"there is no worker {worker_id[:200]!r}; Fleet.ListWorkers or `quickthaw workers` "
                "lists those that are attached"
            )
        return WorkerId(worker_id)

    def _message(self, worker_id: WorkerId) -> fleet_pb2.Worker:
        machine = self._dispatcher.machine
        worker = machine.worker(worker_id)
        assert worker is not None
        reports = []
        for attempt_id in worker.held:
            request_id = RequestId(attempt_id.rpartition(".")[0])
            request = machine.request(request_id)
            if request is not None and request.attempt is not None:
                reports.append((request.attempt, request.state))
        return worker_message(worker, reports, self._catalog.models().values())


def _bounded(frame: fleet_pb2.WorkerFrame) -> Sequence[fleet_pb2.WorkerMessage]:
    if len(frame.messages) > limits.FRAME_MESSAGES_MAX:
        raise invalid("messages", f"must be at most {limits.FRAME_MESSAGES_MAX} a frame")
    return frame.messages


def _without_others(decision: fleet_pb2.Decision) -> fleet_pb2.Decision:
    """What a tenant may know: which contents would have had to go and for whom a worker is kept is
    about other tenants' endpoints and requests."""
    shown = fleet_pb2.Decision()
    shown.CopyFrom(decision)
    for candidate in shown.candidates:
        del candidate.evict_digests[:]
    for refusal in shown.refusals:
        if refusal.reason in _ABOUT_OTHERS:
            refusal.detail = ""
    return shown
