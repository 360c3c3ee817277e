"""A request's events to the last one, across a restart of the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from quickthaw.gateway.platform import Credential, Platform
from quickthaw.v1 import inference_pb2, types_pb2
from quickthaw.wire.errors import Unavailable

TERMINAL = frozenset(
    {
        types_pb2.REQUEST_STATE_SUCCEEDED,
        types_pb2.REQUEST_STATE_FAILED,
        types_pb2.REQUEST_STATE_CANCELLED,
    }
)
PAUSE_SECONDS = 0.2

Events = AsyncGenerator[inference_pb2.Event, None]


async def follow(platform: Platform, credential: Credential, request_id: str) -> Events:
    """Ends after the `finished` event. Close it to stop following.

    A scheduler that restarted still has the request and has forgotten its events: what it says from
    then on begins anew, so a state may be told twice. Raises Unavailable when it stays away.
    """
    while True:
        watch = platform.watch(credential, request_id)
        try:
            async for event in watch:
                yield event
                if event.HasField("finished"):
                    return
        except Unavailable:
            pass  # Whether it stays away, the next call finds out.
        finally:
            await watch.aclose()
        request = await platform.get(credential, request_id)
        if request.state in TERMINAL:
            yield inference_pb2.Event(
                request_id=request_id, unix_ms=request.finished_unix_ms, finished=request
            )
            return
        await asyncio.sleep(PAUSE_SECONDS)


async def next_event(events: Events) -> inference_pb2.Event | None:
    """None at the end: a coroutine, which a timeout can be put on."""
    return await anext(events, None)
