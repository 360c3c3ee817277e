"""`kill -9` of the scheduler and of workers in mid-run, thirty times at random moments."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from quickthaw.cli.snapshots import model_of
from quickthaw.client import AsyncClient, JsonObject, LedgerLine, Request, RequestState
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import Unavailable
from support.platform import Platform, running_platform, until
from support.tiny_models import tiny_sd

ROUNDS = 30
REQUESTS_A_ROUND = 6
SEED = 30
WORKERS = 2
DRAW: JsonObject = {
    "num_inference_steps": 8,
    "guidance_scale": 1.0,
    "image_size": {"width": 32, "height": 32},
    "preview_every": 4,
}
ENDED = {RequestState.SUCCEEDED, RequestState.FAILED, RequestState.CANCELLED}


async def submit(client: AsyncClient, model: str, index: int) -> str:
    """Submits once, however often the scheduler dies under it: the key makes trying again safe."""
    drawing: JsonObject = {"prompt": f"picture {index}", "seed": index, **DRAW}
    while True:
        try:
            submitted = await client.submit(model, drawing, idempotency_key=f"picture-{index}")
        except Unavailable:
            continue
        return submitted.request_id


async def kill(platform: Platform, part: str) -> None:
    """Kills a part, or waits for it to be up first; returns when `up` has noticed."""
    dead: list[int] = []

    def killed() -> bool:
        if (pid := platform.kill(part)) is not None:
            dead.append(pid)
        return bool(dead)

    await until(killed, f"killing {part}")
    await until(lambda: platform.pids().get(part) != dead[0], f"a new {part}")


async def follow(client: AsyncClient, request_id: str) -> Request:
    """Watches to the end across restarts, and sees to it that there is one end only."""
    while True:
        try:
            async with asyncio.timeout(240):
                finished: Request | None = None
                async for event in client.watch(request_id):
                    assert finished is None, f"{request_id} went on after its end"
                    if (request := getattr(event, "request", None)) is not None:
                        finished = request
                assert finished is not None
                return finished
        except Unavailable:
            continue


@pytest.mark.timeout(420)
async def test_kill_9_at_random_moments_loses_nothing_and_bills_nothing_twice(
    tmp_path: Path,
) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    model = model_of(store.open(pack(tiny_sd(0), store)), "test/tiny")
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    with running_platform(tmp_path, "--workers", str(WORKERS)) as platform:
        async with platform.async_client() as client:
            await client.models.register(model)
            workers = platform.workers()
            accepted: list[str] = []
            ends: list[asyncio.Task[Request]] = []
            for number in range(ROUNDS):
                for _ in range(REQUESTS_A_ROUND):
                    request_id = await submit(client, model.id, len(accepted))
                    accepted.append(request_id)
                    ends.append(asyncio.create_task(follow(client, request_id)))
                victim = "scheduler" if number % 2 else chance.choice(workers)
                # The random moment is the point of this test, not a wait for something.
                await asyncio.sleep(chance.uniform(0.0, 0.4))
                await kill(platform, victim)
            finished = await asyncio.gather(*ends)
            again = [await client.get(request_id) for request_id in accepted]
            ledger = [line async for line in client.ledger()]
        check(accepted, finished, again, ledger)
        assert platform.stop() == 0


def check(
    accepted: list[str], finished: list[Request], again: list[Request], ledger: list[LedgerLine]
) -> None:
    assert len(set(accepted)) == ROUNDS * REQUESTS_A_ROUND
    assert [request.request_id for request in finished] == accepted
    assert {request.state for request in finished} <= ENDED
    # An end, once told, is the end.
    assert [(r.state, r.receipt) for r in again] == [(r.state, r.receipt) for r in finished]
    for request in finished:
        if request.state is not RequestState.SUCCEEDED:
            assert request.failure is not None
            lost = ("ATTEMPTS_EXHAUSTED", "POISON_REQUEST")
            assert request.failure.reason in lost, request.failure
    lines_of: dict[str, list[LedgerLine]] = {}
    for line in ledger:
        lines_of.setdefault(line.request_id, []).append(line)
    assert set(lines_of) <= set(accepted)
    assert max(Counter(line.attempt_id for line in ledger).values()) == 1
    for request in finished:
        lines = lines_of[request.request_id]
        assert request.receipt is not None
        succeeded = [line for line in lines if line.outcome is RequestState.SUCCEEDED]
        assert len(succeeded) == (request.state is RequestState.SUCCEEDED)
        assert len(lines) == len({line.attempt for line in lines})
        for line in succeeded:
            assert line.billed_ms == line.metered_ms == request.receipt.billed_ms
        for line in lines:
            if line not in succeeded:
                assert (line.billed_ms, line.price_nanodollars) == (0, 0), line
                assert line.waiver, line
