"""The scheduler, as the gateway calls it: one channel for every caller, the caller's key per call.

The Python SDK holds one key per client; a gateway holds none of its callers' keys for longer than a
request, which is why this binds to the generated stubs.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NewType, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from quickthaw.gateway.realtime_stream import RealtimeStream, is_bare, our_error, our_errors
from quickthaw.gateway.settings import Limits
from quickthaw.v1 import (
    billing_pb2,
    billing_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    types_pb2,
    webhooks_pb2,
    webhooks_pb2_grpc,
)
from quickthaw.wire.dialling import Dialler, Retired
from quickthaw.wire.errors import Unavailable
from quickthaw.wire.limits import CHANNEL_OPTIONS
from quickthaw.wire.process import Address
from quickthaw.wire.tls_settings import TlsFiles

logger = logging.getLogger(__name__)

Credential = NewType("Credential", str)
"""A key as the `authorization` metadata carries it; empty for a caller that sent none."""

READY_SECONDS = 2.0
LISTINGS_CACHED_MAX = 16
PAUSE_SECONDS = 0.05
PAUSE_SECONDS_MAX = 1.0

_OPTIONS = [
    *CHANNEL_OPTIONS,
    # gRPC would wait up to two minutes before it looks for a scheduler again that was away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

T = TypeVar("T")


class Platform:
    """Every method raises the errors of `quickthaw.wire.errors`, whatever gRPC made of them."""

    def __init__(
        self, scheduler: Address, limits: Limits, scheduler_tls: TlsFiles | None = None
    ) -> None:
        """`scheduler_tls` None is for plain text. Raises SettingsInvalid for files that cannot be
        used."""
        self._limits = limits
        self._dialler = Dialler(str(scheduler), scheduler_tls, _OPTIONS)
        self._listed: OrderedDict[Credential, tuple[float, list[catalog_pb2.Model]]] = OrderedDict()
        self._models: OrderedDict[tuple[Credential, str], tuple[float, catalog_pb2.Model]] = (
            OrderedDict()
        )
        self._looking: asyncio.Task[None] | None = None
        self._trouble = ""
        self._retired = Retired()
        self._connect()

    def _connect(self) -> None:
        self.channel = self._dialler.open()
        self._inference = inference_pb2_grpc.InferenceStub(self.channel)
        self._catalog = catalog_pb2_grpc.CatalogStub(self.channel)
        self._webhooks = webhooks_pb2_grpc.WebhooksStub(self.channel)
        self._accounts = billing_pb2_grpc.AccountsStub(self.channel)
        # The generated stub's types know only the threaded channel.
        self._health_check = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        self._billing = billing_pb2_grpc.BillingStub(self.channel)

    @property
    def renewable(self) -> bool:
        """Whether `renew` has anything to look at."""
        return self._dialler.renewable

    def renew(self) -> None:
        """Looks whether the certificate was renewed; what comes then goes by a new connection, and
        what is under way ends on the old one."""
        if self._dialler.refresh():
            self._retired.add(self.channel)
            self._trouble = ""
            self._connect()

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._retired.close()
        await self.channel.close()

    async def ready(self) -> bool:
        try:
            answer = await self._health_check(
                health_pb2.HealthCheckRequest(), timeout=READY_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            self._note(error)
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def submit(
        self, credential: Credential, request: inference_pb2.SubmitRequest
    ) -> inference_pb2.SubmitResponse:
        """Tried again while the scheduler restarts, which is safe with an idempotency key only."""
        if not request.idempotency_key:
            request.idempotency_key = f"gateway-{uuid.uuid4()}"
        return await self.call(credential, self._inference.Submit, request)

    async def submit_and_wait(
        self, credential: Credential, request: inference_pb2.SubmitRequest, wait_seconds: float
    ) -> inference_pb2.SubmitResponse:
        """With the end, if the request ends in time; cancelling this leaves the request alone.

        One try: raises Unavailable when the scheduler goes away before it answers, which has then
        forgotten what nobody knew of.
        """
        request.wait_ms = max(1, int(wait_seconds * 1000))
        return await self._short(
            self._inference.Submit(
                request,
                metadata=_metadata(credential),
                timeout=wait_seconds + self._limits.call_seconds,
            )
        )

    async def run(
        self, credential: Credential, request: inference_pb2.SubmitRequest
    ) -> types_pb2.Request:
        """To its end, in one call; cancelling that cancels the request.

        Raises Unavailable when the scheduler goes away, which has then forgotten the request, and
        DeadlineExpired for a run longer than any may be.
        """
        with our_errors():
            return await self._inference.Run(
                request, metadata=_metadata(credential), timeout=self._limits.run_seconds_max
            )

    async def get(self, credential: Credential, request_id: str) -> types_pb2.Request:
        return await self._patiently(
            lambda: self._inference.Get(
                inference_pb2.GetRequest(request_id=request_id),
                metadata=_metadata(credential),
                timeout=self._limits.call_seconds,
            )
        )

    async def cancel(
        self, credential: Credential, request_id: str
    ) -> types_pb2.RequestState.ValueType:
        answer = await self.call(
            credential, self._inference.Cancel, inference_pb2.CancelRequest(request_id=request_id)
        )
        return answer.state

    async def watch(
        self, credential: Credential, request_id: str, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[inference_pb2.Event, None]:
        """From the request's first event on. Close the iterator to stop watching."""
        call = self._inference.Watch(
            inference_pb2.WatchRequest(request_id=request_id),
            metadata=_metadata(credential),
            timeout=timeout_seconds or self._limits.run_seconds_max,
        )
        try:
            with our_errors():
                async for event in call:
                    yield event
        finally:
            call.cancel()

    def realtime(self, credential: Credential) -> RealtimeStream:
        """A session of its own. Close it."""
        with our_errors():
            return RealtimeStream(self._inference.Realtime(metadata=_metadata(credential)))

    async def read_artifact(
        self, credential: Credential, uri: str
    ) -> AsyncGenerator[inference_pb2.ReadArtifactResponse, None]:
        call = self._inference.ReadArtifact(
            inference_pb2.ReadArtifactRequest(uri=uri),
            metadata=_metadata(credential),
            timeout=self._limits.run_seconds_max,
        )
        try:
            with our_errors():
                async for part in call:
                    yield part
        finally:
            call.cancel()

    async def tenant(self, credential: Credential) -> str:
        """Whose the key is. Raises Unauthenticated or PermissionDenied where it may not call."""
        answer = await self.call(credential, self._accounts.WhoAmI, billing_pb2.WhoAmIRequest())
        return answer.tenant

    async def model(self, credential: Credential, model_id: str) -> catalog_pb2.Model:
        """By id or alias, at most `model_cache_seconds` old. Raises ModelNotFound."""
        entry = (credential, model_id)
        now = time.monotonic()
        if (known := self._models.get(entry)) is not None and known[0] > now:
            return known[1]
        model = await self.call(
            credential, self._catalog.GetModel, catalog_pb2.GetModelRequest(id=model_id)
        )
        self._models[entry] = (now + self._limits.model_cache_seconds, model)
        self._models.move_to_end(entry)
        if len(self._models) > self._limits.models_cached_max:
            self._models.popitem(last=False)
        return model

    async def models(self, credential: Credential) -> list[catalog_pb2.Model]:
        """The whole catalog, sorted by id; at most `models_listed_max` of them."""
        found: list[catalog_pb2.Model] = []
        page = catalog_pb2.ListModelsRequest()
        while len(found) < self._limits.models_listed_max:
            answer = await self._patiently(
                lambda: self._catalog.ListModels(
                    page, metadata=_metadata(credential), timeout=self._limits.call_seconds
                )
            )
            found += answer.models
            if not answer.next_page_token:
                break
            page.page.token = answer.next_page_token
        return found[: self._limits.models_listed_max]

    async def claim_webhooks(
        self, credential: Credential, request: webhooks_pb2.ClaimWebhooksRequest
    ) -> list[webhooks_pb2.WebhookDelivery]:
        answer = await self._short(
            self._webhooks.Claim(
                request,
                metadata=_metadata(credential),
                timeout=self._limits.call_seconds + request.wait_ms / 1000,
            )
        )
        return list(answer.deliveries)

    async def report_webhook(
        self, credential: Credential, request: webhooks_pb2.ReportWebhookRequest
    ) -> None:
        """Tried again while the scheduler restarts: a lease that was settled ignores a second."""
        await self.call(credential, self._webhooks.Report, request)

    async def signing_keys(self, credential: Credential) -> list[webhooks_pb2.SigningKey]:
        """Newest first."""
        answer = await self._patiently(
            lambda: self._webhooks.ListSigningKeys(
                webhooks_pb2.ListSigningKeysRequest(),
                metadata=_metadata(credential),
                timeout=self._limits.call_seconds,
            )
        )
        return list(answer.keys)

    async def webhook_secret(self, credential: Credential) -> webhooks_pb2.GetWebhookSecretResponse:
        return await self.call(
            credential, self._webhooks.GetSecret, webhooks_pb2.GetWebhookSecretRequest()
        )

    async def list_requests(
        self, credential: Credential, request: inference_pb2.ListRequestsRequest
    ) -> inference_pb2.ListRequestsResponse:
        return await self.call(credential, self._inference.List, request)

    async def prices(self, credential: Credential) -> billing_pb2.GetPricesResponse:
        return await self._patiently(
            lambda: self._billing.GetPrices(
                billing_pb2.GetPricesRequest(),
                metadata=_metadata(credential),
                timeout=self._limits.call_seconds,
            )
        )

    async def listed_models(self, credential: Credential) -> list[catalog_pb2.Model]:
        """As `models`, at most `model_cache_seconds` old."""
        now = time.monotonic()
        if (known := self._listed.get(credential)) is not None and known[0] > now:
            return known[1]
        found = await self.models(credential)
        self._listed[credential] = (now + self._limits.model_cache_seconds, found)
        self._listed.move_to_end(credential)
        if len(self._listed) > LISTINGS_CACHED_MAX:
            self._listed.popitem(last=False)
        return found

    async def call(
        self,
        credential: Credential,
        method: Callable[..., Awaitable[T]],
        request: Message,
        *,
        repeatable: bool = True,
    ) -> T:
        """A short call of a stub of `channel`, tried again while the scheduler restarts unless
        that could do it twice."""

        def make_call() -> Awaitable[T]:
            return method(
                request, metadata=_metadata(credential), timeout=self._limits.call_seconds
            )

        return await (self._patiently(make_call) if repeatable else self._short(make_call()))

    async def _patiently(self, make_call: Callable[[], Awaitable[T]]) -> T:
        """A short call that can be repeated; a scheduler that restarts is waited for."""
        give_up = time.monotonic() + self._limits.reconnect_seconds
        pause_seconds = PAUSE_SECONDS
        while True:
            try:
                return await self._short(make_call())
            except Unavailable:
                if time.monotonic() + pause_seconds > give_up:
                    raise
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)

    async def _short(self, call: Awaitable[T]) -> T:
        """A call whose only deadline is ours: missing it is no request's fault."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and is_bare(error):
                raise Unavailable(
                    "the scheduler did not answer in time; try again", retry_delay_seconds=1.0
                ) from error
            self._note(error)
            raise our_error(error) from error

    def _note(self, error: grpc.aio.AioRpcError) -> None:
        """Says in the log, once, if it is TLS that keeps this gateway from the scheduler."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE or not is_bare(error):
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(error.details() or ""))

    async def _look(self, text: str) -> None:
        trouble = await asyncio.to_thread(self._dialler.trouble, text)
        if trouble is not None and trouble != self._trouble:
            logger.error("the scheduler cannot be called: %s", trouble)
            self._trouble = trouble


def _metadata(credential: Credential) -> tuple[tuple[str, str], ...]:
    return (("authorization", credential),) if credential else ()
