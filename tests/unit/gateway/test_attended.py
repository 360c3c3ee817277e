"""A request whose caller waits for it is taken back when it cannot be attended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import cast

import pytest

from quickthaw.gateway.calls import AttendedRequest, Call, CallOptions
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.ids import EndpointId, parse_endpoint_id
from quickthaw.gateway.platform import Credential
from quickthaw.v1 import inference_pb2
from quickthaw.wire.errors import Unavailable

ENDPOINT: EndpointId = parse_endpoint_id("fal-ai/shapes/dev")


class Platform:
    def __init__(self) -> None:
        self.cancelled: list[str] = []

    async def submit(
        self, _credential: Credential, _request: inference_pb2.SubmitRequest
    ) -> inference_pb2.SubmitResponse:
        return inference_pb2.SubmitResponse(request_id="req_1")

    async def cancel(self, _credential: Credential, request_id: str) -> None:
        self.cancelled.append(request_id)


class WithoutABlobStore:
    """As far as calls know a gateway."""

    def __init__(self) -> None:
        self.platform = Platform()
        self.chores: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[None, None, None]) -> None:
        self.chores.append(asyncio.create_task(work))

    async def keep_for(self, _request_id: str, _seconds: float | None) -> None:
        raise Unavailable("the blob store does not answer")


async def test_a_request_whose_files_cannot_be_limited_is_not_left_running() -> None:
    gateway = WithoutABlobStore()
    options = CallOptions(Credential("Key k"), keep_seconds=60.0)
    call = Call(cast("Gateway", gateway), ENDPOINT, options, {}, {}, sync_mode=False)
    with pytest.raises(Unavailable):
        await AttendedRequest.submit(call)
    await asyncio.gather(*gateway.chores)
    assert gateway.platform.cancelled == ["req_1"]
