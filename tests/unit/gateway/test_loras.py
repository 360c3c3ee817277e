"""LoRAs by the same URL, asked for at the same moment."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import cast

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.json_text import Json
from quickthaw.gateway.loras import Loras, OwnFile
from quickthaw.gateway.outbound import Outbound
from quickthaw.gateway.settings import Limits
from quickthaw.gateway.storage.weights_store import WeightsStore


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


class SlowStore:
    """Takes anything; says of what it has only when it may."""

    def __init__(self) -> None:
        self.file_bytes_max = 1000
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def keep(self, _name: str, data: AsyncIterator[bytes]) -> str:
        return b"".join([piece async for piece in data]).decode()

    async def use(self, _key: str) -> bool:
        self.asked.set()
        await self.may_answer.wait()
        return True


async def test_a_file_that_others_push_out_while_it_is_looked_up_is_found_all_the_same() -> None:
    outbound, store = Outbound(), SlowStore()
    limits = dataclasses.replace(Limits(), loras_stored_max=1)
    loras = Loras(limits, outbound, store=cast("WeightsStore", store), now=lambda: 0.0)

    async def one_of_ours(_argument: str, url: str) -> OwnFile | None:
        name = url.rpartition("/")[2]

        async def read() -> AsyncIterator[bytes]:
            yield name.encode()

        return OwnFile(name, len(name), read)

    async def bring(name: str) -> Json:
        return await loras.bring([{"path": f"http://here.invalid/{name}"}], one_of_ours)

    first = await bring("one")
    again = asyncio.create_task(bring("one"))
    await store.asked.wait()
    await bring("two")
    store.may_answer.set()
    assert await again == first
    await outbound.close()
