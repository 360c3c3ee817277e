"""Five hundred requests of three models over three workers that each hold two."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from quickthaw.cli.snapshots import model_of
from quickthaw.client import JsonObject, LedgerLine, Model, Request, RequestState, Tier
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.platform import running_platform
from support.tiny_models import tiny_sd

REQUESTS = 500
IN_FLIGHT = 40
SEED = 20
DRAW: JsonObject = {
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "image_size": {"width": 32, "height": 32},
    "preview_every": 0,
}


def three_models(store: SnapshotStore) -> list[Model]:
    """Three that share nothing, in a catalog's terms."""
    digests = [pack(tiny_sd(seed), store) for seed in range(3)]
    return [
        model_of(store.open(digest), f"test/tiny-{index}") for index, digest in enumerate(digests)
    ]


def room_for_two(models: list[Model]) -> int:
    """Bytes of device memory that hold two of the models and one run, and not a third model."""
    weights = [model.size_bytes for model in models]
    return 2 * max(weights) + max(model.working_bytes for model in models) + min(weights) // 2


@pytest.mark.timeout(300)
async def test_placements_prefer_residency_and_every_bill_is_the_meter(tmp_path: Path) -> None:
    models = three_models(SnapshotStore(tmp_path / "snapshots"))
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    wanted = [chance.choice(models).id for _ in range(REQUESTS)]
    with running_platform(
        tmp_path, "--workers", "3", "--vram-bytes", str(room_for_two(models))
    ) as platform:
        async with platform.async_client() as client:
            for model in models:
                await client.models.register(model)
            under_way = asyncio.Semaphore(IN_FLIGHT)

            async def one(index: int, model: str) -> Request:
                async with under_way:
                    return await client.run(
                        model, {"prompt": f"picture {index}", "seed": index, **DRAW}
                    )

            finished = await asyncio.gather(*(one(i, model) for i, model in enumerate(wanted)))
            ledger = [line async for line in client.ledger()]
            usage = await client.usage()
            workers = await client.workers.list()

        assert [request.state for request in finished] == [RequestState.SUCCEEDED] * REQUESTS
        assert [request.model for request in finished] == wanted
        check_residency(finished, {model.id: model for model in models})
        check_bills(finished, ledger)
        assert usage.total.price_nanodollars == sum(line.price_nanodollars for line in ledger)
        assert usage.total.requests == REQUESTS
        for worker in workers:
            assert worker.vram_used_bytes <= worker.vram_bytes
            assert len(worker.resident_models) <= 2
        assert platform.stop() == 0


def check_residency(finished: list[Request], models: dict[str, Model]) -> None:
    receipts = [request.receipt for request in finished]
    starts = Counter(receipt.start_tier for receipt in receipts if receipt)
    by_worker: dict[str, set[str]] = {}
    for request in finished:
        assert request.receipt is not None
        by_worker.setdefault(request.receipt.worker_id, set()).add(request.model)
    assert len(by_worker) == 3, "every worker takes part"
    # Six places for three models: hardly anything has to be loaded twice.
    assert starts[Tier.VRAM] >= 0.95 * len(finished), starts
    for receipt in receipts:
        assert receipt is not None
        assert receipt.load is not None
        moved = [part for part in receipt.load.components if part.source is not Tier.VRAM]
        assert (receipt.start_tier is Tier.VRAM) == (not moved)
        assert receipt.placement


def check_bills(finished: list[Request], ledger: list[LedgerLine]) -> None:
    by_request: dict[str, list[LedgerLine]] = {}
    for line in ledger:
        by_request.setdefault(line.request_id, []).append(line)
    assert len(ledger) == len({line.attempt_id for line in ledger})
    for request in finished:
        receipt = request.receipt
        assert receipt is not None
        (line,) = by_request[request.request_id]
        assert line.metered_ms == line.billed_ms == receipt.run_ms == receipt.billed_ms
        rate = line.rate_nanodollars_per_second
        assert line.price_nanodollars == (line.billed_ms * rate * 2 + 1000) // 2000
        assert line.price_nanodollars == receipt.price_nanodollars
        assert receipt.run_ms > 0
        assert line.waiver == receipt.waiver == ""
