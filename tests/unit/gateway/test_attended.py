"""A caller that leaves is noticed, whatever happens to its request at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import cast

import pytest

from quickthaw.gateway.calls import AttendedRequest, Call, CallOptions
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.ids import EndpointId, parse_endpoint_id
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.settings import Limits
from quickthaw.v1 import inference_pb2
from support.patience import PATIENCE_SECONDS

ENDPOINT: EndpointId = parse_endpoint_id("fal-ai/shapes/dev")


class Platform:
    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.event = asyncio.get_running_loop().create_future()

    async def watch(
        self, _credential: Credential, _request_id: str
    ) -> AsyncGenerator[inference_pb2.Event, None]:
        self.asked.set()
        yield await self.event
        await asyncio.Event().wait()


async def test_a_caller_that_leaves_as_an_event_arrives_does_not_stay_for_the_next() -> None:
    platform = Platform()
    gateway = cast("Gateway", SimpleNamespace(platform=platform, limits=Limits()))
    options = CallOptions(Credential("Key k"))
    call = Call(gateway, ENDPOINT, options, {}, {}, sync_mode=False)

    async def attend() -> None:
        async for _ in AttendedRequest(call, "req_1").events():
            pass

    attending = asyncio.create_task(attend())
    await platform.asked.wait()
    platform.event.set_result(inference_pb2.Event())
    attending.cancel()
    await asyncio.wait({attending}, timeout=PATIENCE_SECONDS)
    with pytest.raises(asyncio.CancelledError):
        attending.result()
