"""LoRAs by the same URL, asked for at the same moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.loras import Loras, OwnFile
from quickthaw.gateway.outbound import Outbound
from quickthaw.gateway.settings import Limits


async def not_ours(_argument: str, _url: str) -> OwnFile | None:
    return None


async def test_who_asks_just_as_a_fetch_ends_waits_behind_those_who_waited() -> None:
    looking, looking_most = 0, 0

    async def look_up(host: str, port: int) -> Sequence[str]:
        """Takes a few turns of the loop, and then nobody is there."""
        nonlocal looking, looking_most
        looking += 1
        looking_most = max(looking, looking_most)
        for _ in range(5):
            await asyncio.sleep(0)
        looking -= 1
        raise OSError("unknown host")

    outbound = Outbound(resolve=look_up)
    loras = Loras(Limits(), outbound, store=None, now=lambda: 0.0)

    async def ask(times: int) -> None:
        for _ in range(times):  # The second time comes before anybody else has had a turn.
            with contextlib.suppress(HttpError):
                await loras.bring([{"path": "http://weights.invalid/one"}], not_ours)

    await asyncio.gather(ask(2), ask(1), ask(2))
    await outbound.close()
    assert looking_most == 1
