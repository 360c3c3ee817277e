"""A platform's Inference and Catalog on a real socket, whose requests do what a test says.

Without a word from the test a request runs to its end at once: a log line, a preview if its input
asks for any, one picture. `hold()` makes requests wait; then the test moves each one by hand.
"""

# Methods are named as on the wire, hence the exceptions from the naming rule.

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import jsonschema_rs
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from quickthaw.v1 import (
    billing_pb2,
    billing_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    types_pb2,
)
from quickthaw.wire import errors
from quickthaw.wire.limits import ARTIFACT_CHUNK_BYTES, SERVER_OPTIONS
from quickthaw.wire.status import ErrorInterceptor
from support.fake_request import SUBMITTED_UNIX_MS, FakeRequest
from support.fake_unplayed import Context, Unplayed

MODEL_ID = "quickthaw/shapes"
ALIAS = "fal-ai/shapes/dev"
ADMIN_KEY = "qt_admin_secret"
ALICE_KEY = "qt_alice_secret"
BOB_KEY = "qt_bob_secret"
TENANTS = {ADMIN_KEY: "admin", ALICE_KEY: "alice", BOB_KEY: "bob"}

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string", "minLength": 1, "maxLength": 200},
        "image_size": {
            "type": "object",
            "additionalProperties": False,
            "required": ["width", "height"],
            "properties": {
                "width": {"type": "integer", "minimum": 64, "maximum": 1024, "multipleOf": 8},
                "height": {"type": "integer", "minimum": 64, "maximum": 1024, "multipleOf": 8},
            },
            "default": {"width": 64, "height": 64},
        },
        "image_url": {"type": "string", "maxLength": 1_000_000},
        "mask_url": {"type": "string", "maxLength": 1_000_000},
        "strength": {"type": "number", "default": 0.8},
        "loras": {
            "type": "array",
            "maxItems": 8,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["path"],
                "properties": {
                    "path": {"type": "string", "minLength": 1, "maxLength": 1_000_000},
                    "scale": {"type": "number", "minimum": -4, "maximum": 4, "default": 1.0},
                },
            },
        },
        "num_images": {"type": "integer", "minimum": 1, "maximum": 8, "default": 1},
        "num_inference_steps": {"type": "integer", "minimum": 1, "maximum": 100, "default": 16},
        "guidance_scale": {"type": "number", "exclusiveMinimum": 0, "default": 7.5},
        "seed": {"type": ["integer", "null"], "minimum": 0, "default": None},
        "output_format": {"type": "string", "enum": ["png", "jpeg"], "default": "png"},
        "preview_every": {"type": "integer", "minimum": 0, "default": 0},
    },
}


class FakePlatform(Unplayed):
    def __init__(self) -> None:
        self.requests: dict[str, FakeRequest] = {}
        self.artifacts: dict[str, tuple[str, types_pb2.Artifact, bytes]] = {}
        self.refuse_submit: errors.QuickthawError | None = None
        self.hints: list[str] = []
        self.sessions = 0
        """Realtime sessions opened so far."""
        self.durable: asyncio.Future[errors.QuickthawError | None] | None = None
        """If there is one, ends of sessions are tentative until it says what became of them."""
        self._held = False
        self._submitted = asyncio.Condition()

    def hold(self) -> None:
        self._held = True

    async def submitted(self, count: int = 1) -> FakeRequest:
        """The newest request, once there are `count` of them."""
        async with self._submitted:
            await self._submitted.wait_for(lambda: len(self.requests) >= count)
        return list(self.requests.values())[-1]

    def forget_events(self) -> None:
        """As a restart does."""
        for request in self.requests.values():
            request.events.clear()

    def picture(
        self,
        request: FakeRequest,
        data: bytes,
        name: str = "0.png",
        content_type: str = "image/png",
    ) -> types_pb2.Artifact:
        artifact = types_pb2.Artifact(
            uri=f"artifacts/{request.record.request_id}/{name}",
            name=name,
            content_type=content_type,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            width=64,
            height=64,
        )
        self.artifacts[artifact.uri] = (request.record.tenant, artifact, data)
        return artifact

    # ---- Inference -----------------------------------------------------------------------------

    async def Submit(
        self, request: inference_pb2.SubmitRequest, context: Context
    ) -> inference_pb2.SubmitResponse:
        tenant = _tenant(context)
        if self.refuse_submit is not None:
            raise self.refuse_submit
        _check_model(request.model)
        for known in self.requests.values():
            if known.submitted.idempotency_key == request.idempotency_key != "":
                if known.submitted.input_json != request.input_json:
                    raise errors.AlreadyExists("the key was used for a different request")
                return inference_pb2.SubmitResponse(
                    request_id=known.record.request_id, deduplicated=True
                )
        input_ = _checked_input(request.input_json)
        made = FakeRequest(
            types_pb2.Request(
                request_id=f"req-{len(self.requests) + 1}",
                tenant=tenant,
                model=MODEL_ID,
                priority=request.priority,
                state=types_pb2.REQUEST_STATE_QUEUED,
                input_json=json.dumps(input_),
                submitted_unix_ms=SUBMITTED_UNIX_MS,
            ),
            request,
        )
        async with self._submitted:
            self.requests[made.record.request_id] = made
            self._submitted.notify_all()
        if not self._held:
            await self._play(made, input_)
        return await self._accepted(made, request.wait_ms)

    async def _accepted(self, made: FakeRequest, wait_ms: int) -> inference_pb2.SubmitResponse:
        answer = inference_pb2.SubmitResponse(
            request_id=made.record.request_id, state=types_pb2.REQUEST_STATE_QUEUED
        )
        if wait_ms:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await made.ended()
                    answer.ended.CopyFrom(made.record)
                    answer.events.extend(made.events[:-1])
        return answer

    async def _play(self, request: FakeRequest, input_: dict[str, object]) -> None:
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        await request.log("drawing")
        if input_["preview_every"]:
            await request.preview(1)
        count = input_["num_images"]
        assert isinstance(count, int)
        await request.succeed(
            *(
                self.picture(request, f"picture {index}".encode(), f"{index}.png")
                for index in range(count)
            )
        )

    async def Run(
        self, request: inference_pb2.SubmitRequest, context: Context
    ) -> types_pb2.Request:
        accepted = await self.Submit(request, context)
        found = self.requests[accepted.request_id]
        try:
            await found.ended()
        except asyncio.CancelledError:
            found.cancelled.set()
            raise
        return found.record

    async def Get(self, request: inference_pb2.GetRequest, context: Context) -> types_pb2.Request:
        return self._find(request.request_id, context).record

    async def Cancel(
        self, request: inference_pb2.CancelRequest, context: Context
    ) -> inference_pb2.CancelResponse:
        found = self._find(request.request_id, context)
        if not found.record.HasField("receipt"):
            found.cancelled.set()
            await found.fail("CANCELLED", "cancelled by the caller")
        return inference_pb2.CancelResponse(state=found.record.state)

    async def Watch(
        self, request: inference_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[inference_pb2.Event]:
        found = self._find(request.request_id, context)
        async with found.news:
            found.watchers += 1
            found.news.notify_all()
        seen = 0
        try:
            while True:
                fresh = await found.events_after(seen)
                for event in fresh:
                    seen += 1
                    yield event
                    if event.HasField("finished"):
                        return
        finally:
            found.watchers -= 1
            if not found.watchers:
                found.unwatched.set()

    async def Realtime(
        self, request_iterator: AsyncIterator[inference_pb2.RealtimeRequest], context: Context
    ) -> AsyncIterator[inference_pb2.RealtimeResponse]:
        """One input after the other; leaving cancels the one that has not ended."""
        self.sessions += 1
        async for message in request_iterator:
            try:
                accepted = await self.Submit(message.submit, context)
            except errors.QuickthawError as error:
                refused = types_pb2.Failure(reason=error.reason, message=error.message)
                for violation in getattr(error, "violations", ()):
                    refused.violations.add(field=violation.field, description=violation.description)
                yield inference_pb2.RealtimeResponse(tag=message.tag, refused=refused)
                continue
            watched = inference_pb2.WatchRequest(request_id=accepted.request_id)
            try:
                async for event in self.Watch(watched, context):
                    tentative = event.HasField("finished") and self.durable is not None
                    yield inference_pb2.RealtimeResponse(
                        tag=message.tag,
                        event=event,
                        tentative=tentative,
                        contents=[b"picture 0"] if tentative else [],
                    )
                if self.durable is not None:
                    why = await asyncio.shield(self.durable)
                    failure = (
                        types_pb2.Failure(reason=why.reason, message=why.message) if why else None
                    )
                    yield inference_pb2.RealtimeResponse(
                        tag=message.tag, durable=failure is None, refused=failure
                    )
            finally:
                found = self.requests[accepted.request_id]
                if not found.record.HasField("receipt"):
                    found.cancelled.set()

    async def ReadArtifact(
        self, request: inference_pb2.ReadArtifactRequest, context: Context
    ) -> AsyncIterator[inference_pb2.ReadArtifactResponse]:
        tenant = _tenant(context)
        owner, artifact, data = self.artifacts.get(request.uri, ("", types_pb2.Artifact(), b""))
        if tenant not in (owner, "admin") or not owner:
            raise errors.ArtifactNotFound(f"no artifact {request.uri}")
        for offset in range(0, max(1, len(data)), ARTIFACT_CHUNK_BYTES):
            yield inference_pb2.ReadArtifactResponse(
                data=data[offset : offset + ARTIFACT_CHUNK_BYTES],
                artifact=artifact if offset == 0 else None,
            )

    def _find(self, request_id: str, context: Context) -> FakeRequest:
        tenant = _tenant(context)
        found = self.requests.get(request_id)
        if found is None or found.record.tenant != tenant:
            raise errors.RequestNotFound(f"no request {request_id}")
        return found

    # ---- Catalog -------------------------------------------------------------------------------

    async def GetModel(
        self, request: catalog_pb2.GetModelRequest, context: Context
    ) -> catalog_pb2.Model:
        _tenant(context)
        _check_model(request.id)
        return catalog_pb2.Model(
            id=MODEL_ID,
            aliases=[ALIAS],
            family="sd",
            input_schema_json=json.dumps(SCHEMA),
            description="Draws shapes.",
            visibility=catalog_pb2.VISIBILITY_SHARED,
        )

    async def ListModels(
        self, request: catalog_pb2.ListModelsRequest, context: Context
    ) -> catalog_pb2.ListModelsResponse:
        wanted = catalog_pb2.GetModelRequest(id=MODEL_ID)
        return catalog_pb2.ListModelsResponse(models=[await self.GetModel(wanted, context)])

    # ---- Accounts ------------------------------------------------------------------------------

    async def GetUsage(
        self, request: billing_pb2.GetUsageRequest, context: Context
    ) -> billing_pb2.GetUsageResponse:
        tenant = _tenant(context)
        own = [each for each in self.requests.values() if each.record.tenant == tenant]
        lines = [billing_pb2.UsageLine(model=MODEL_ID, requests=len(own))] if own else []
        return billing_pb2.GetUsageResponse(tenant=tenant, lines=lines)

    async def WhoAmI(
        self, request: billing_pb2.WhoAmIRequest, context: Context
    ) -> billing_pb2.WhoAmIResponse:
        return billing_pb2.WhoAmIResponse(tenant=_tenant(context))


@asynccontextmanager
async def served(platform: FakePlatform, port: int = 0) -> AsyncIterator[int]:
    """On 127.0.0.1 for as long as the context is open; the port."""
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=SERVER_OPTIONS)
    inference_pb2_grpc.add_InferenceServicer_to_server(platform, server)
    catalog_pb2_grpc.add_CatalogServicer_to_server(platform, server)
    billing_pb2_grpc.add_AccountsServicer_to_server(platform, server)
    billing_pb2_grpc.add_BillingServicer_to_server(platform, server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


def _tenant(context: Context) -> str:
    metadata = dict(context.invocation_metadata() or ())
    scheme, _, key = str(metadata.get("authorization", "")).partition(" ")
    if scheme != "Key" or key not in TENANTS:
        raise errors.Unauthenticated("no such key")
    return TENANTS[key]


def _check_model(model_id: str) -> None:
    if model_id not in (MODEL_ID, ALIAS):
        raise errors.ModelNotFound(f"no model {model_id!r}")


def _checked_input(input_json: str) -> dict[str, object]:
    input_ = json.loads(input_json)
    found = list(jsonschema_rs.validator_for(SCHEMA).iter_errors(input_))
    if found:
        raise errors.InvalidInput(
            found[0].message,
            violations=tuple(
                errors.FieldViolation(
                    ".".join(["input", *map(str, each.instance_path)]), each.message
                )
                for each in found
            ),
        )
    properties = SCHEMA["properties"]
    assert isinstance(properties, dict)
    defaults = {name: declared.get("default") for name, declared in properties.items()}
    return {**defaults, **input_}
