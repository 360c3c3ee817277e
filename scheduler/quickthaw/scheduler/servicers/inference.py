"""What callers do with requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc.aio

from quickthaw.scheduler import auth
from quickthaw.scheduler.artifacts import STORED_AFTER_SECONDS_MAX, Artifacts, artifact_of
from quickthaw.scheduler.convert import requests as convert
from quickthaw.scheduler.convert.pages import page_size
from quickthaw.scheduler.convert.words import checked_text
from quickthaw.scheduler.holds import Holds
from quickthaw.scheduler.keys import Scope
from quickthaw.scheduler.requests import Requests
from quickthaw.scheduler.servicers.realtime import RealtimeSession
from quickthaw.scheduler.servicers.run_many import RunMany
from quickthaw.scheduler.servicers.waiting import accepted_message, submit_and_wait
from quickthaw.scheduler.submissions import Submissions
from quickthaw.scheduler.views import RequestView
from quickthaw.v1 import inference_pb2, inference_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[object, object]


class InferenceServicer(inference_pb2_grpc.InferenceServicer):
    def __init__(
        self,
        submissions: Submissions,
        requests: Requests,
        artifacts: Artifacts,
        holds: Holds,
        *,
        realtime_in_flight_max: int,
        run_many_in_flight_max: int,
    ) -> None:
        self._submissions = submissions
        self._requests = requests
        self._artifacts = artifacts
        self._holds = holds
        self._realtime_in_flight_max = realtime_in_flight_max
        self._run_many_in_flight_max = run_many_in_flight_max

    async def Submit(
        self, request: inference_pb2.SubmitRequest, context: Context
    ) -> inference_pb2.SubmitResponse:
        who = auth.caller()
        submission = convert.submission(request, who.key_id)
        if submission.wait_ms:
            return await submit_and_wait(who.tenant, submission, self._submissions, self._requests)
        return accepted_message(await self._submissions.submit(who.tenant, submission))

    async def Run(
        self, request: inference_pb2.SubmitRequest, context: Context
    ) -> types_pb2.Request:
        accepted = await self._submissions.submit_while_wanted(
            auth.caller().tenant,
            convert.submission(request, auth.caller().key_id),
            self._caller_gone,
        )
        try:
            view = await self._requests.end_of(accepted)
        except asyncio.CancelledError:
            if not accepted.deduplicated:
                self._caller_gone(accepted.view)
            raise
        return convert.request_message(view)

    def _caller_gone(self, view: RequestView) -> None:
        self._requests.cancel(view, "the caller of Run went away")

    async def Get(self, request: inference_pb2.GetRequest, context: Context) -> types_pb2.Request:
        view = await self._requests.find(auth.caller().tenant, request.request_id)
        return convert.request_message(view)

    async def List(
        self, request: inference_pb2.ListRequestsRequest, context: Context
    ) -> inference_pb2.ListRequestsResponse:
        views, next_page_token = await self._requests.page(
            auth.caller().tenant,
            before_id=checked_text("page.token", request.page.token, chars_max=64),
            states=convert.states(request.states),
            model=checked_text("model", request.model, chars_max=convert.NAME_CHARS_MAX),
            size=page_size(request.page),
        )
        return inference_pb2.ListRequestsResponse(
            requests=[convert.request_message(view) for view in views],
            next_page_token=next_page_token,
        )

    async def Watch(
        self, request: inference_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[inference_pb2.Event]:
        tenant = auth.caller().tenant
        async for entry in self._requests.watch(tenant, request.request_id, request.after_sequence):
            auth.caller()  # Raises once the key is good no longer.
            yield convert.event_message(
                request.request_id, entry.sequence, entry.unix_ms, entry.payload
            )

    async def Cancel(
        self, request: inference_pb2.CancelRequest, context: Context
    ) -> inference_pb2.CancelResponse:
        view = await self._requests.find(auth.caller().tenant, request.request_id)
        await self._requests.cancel_durably(view)
        return inference_pb2.CancelResponse(state=convert.state_message(view.state))

    async def Quote(
        self, request: inference_pb2.SubmitRequest, context: Context
    ) -> inference_pb2.QuoteResponse:
        tenant = auth.caller().tenant
        submission = convert.submission(request, auth.caller().key_id)
        prepared, _model = self._submissions.prepare(tenant, submission)
        return convert.quote_message(self._requests.quote(prepared))

    async def Realtime(
        self,
        request_iterator: AsyncIterator[inference_pb2.RealtimeRequest],
        context: Context,
    ) -> AsyncIterator[inference_pb2.RealtimeResponse]:
        session = RealtimeSession(
            auth.caller().tenant,
            self._submissions,
            self._requests,
            self._artifacts,
            self._holds,
            self._realtime_in_flight_max,
        )
        async with aclosing(session.serve(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def RunMany(
        self,
        request_iterator: AsyncIterator[inference_pb2.RunManyRequest],
        context: Context,
    ) -> AsyncIterator[inference_pb2.RunManyResponse]:
        calls = RunMany(
            auth.caller().tenant, self._submissions, self._requests, self._run_many_in_flight_max
        )
        async with aclosing(calls.serve(request_iterator)) as frames:
            async for frame in frames:
                yield frame

    async def ReadArtifact(
        self, request: inference_pb2.ReadArtifactRequest, context: Context
    ) -> AsyncIterator[inference_pb2.ReadArtifactResponse]:
        who = auth.caller()
        # A gateway reads with one key for the holders of links, whatever their tenant.
        tenant = None if who.may(Scope.ADMIN) else who.tenant
        view = await self._requests.find_by_artifact(tenant, request.uri)
        artifact = artifact_of(convert.request_message(view), request.uri)
        first = True
        patience_seconds = self._requests.seconds_left(view, STORED_AFTER_SECONDS_MAX)
        async for chunk in self._artifacts.read(artifact, patience_seconds):
            yield inference_pb2.ReadArtifactResponse(
                data=chunk, artifact=artifact if first else None
            )
            first = False
