"""What a request has told so far, for who asks and does not stay to listen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.follow import TERMINAL, next_event
from quickthaw.gateway.platform import Credential
from quickthaw.v1 import inference_pb2, types_pb2

SILENCE_SECONDS = 0.05
"""A running request's past events arrive in one go: this long after one, there is no other."""
REPLAY_SECONDS = 0.25
"""And this long at most, however much a running request has to say."""


async def replay(
    gateway: Gateway,
    credential: Credential,
    request: types_pb2.Request,
    take: Callable[[inference_pb2.Event], object],
) -> None:
    """Gives `take` every event so far; of a request that has ended, all there are."""
    ended = request.state in TERMINAL
    seconds = gateway.limits.call_seconds if ended else REPLAY_SECONDS
    silence = None if ended else SILENCE_SECONDS
    watch = gateway.platform.watch(credential, request.request_id, timeout_seconds=seconds + 1)
    try:
        async with asyncio.timeout(seconds):
            while True:
                async with asyncio.timeout(silence):
                    event = await next_event(watch)
                if event is None:
                    return
                take(event)
    except TimeoutError:
        pass  # The request is still running; a later poll has the rest.
    finally:
        await watch.aclose()
