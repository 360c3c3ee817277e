"""The local fleet's worker host under a whole platform: one import for all, and deaths survived."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from quickthaw.cli.snapshots import model_of
from quickthaw.client import (
    AsyncClient,
    Finished,
    JsonObject,
    Model,
    Progressed,
    Request,
    RequestState,
    Tier,
)
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.platform import Platform, running_platform, until
from support.tiny_models import tiny_sd

WORKERS = 3
NOOP = Model(
    id="test/noop",
    family="noop",
    snapshot_digest="",
    snapshot_uri="",
    components=(),
    working_bytes=0,
    input_schema={"type": "object"},
)
DRAW: JsonObject = {
    "prompt": "a red circle",
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "image_size": {"width": 32, "height": 32},
    "preview_every": 0,
}
LONG: JsonObject = {**DRAW, "num_inference_steps": 100, "image_size": {"width": 64, "height": 64}}
SIZES = ("--vram-bytes", "256MiB", "--pinned-bytes", "64MiB")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def host_of(platform: Platform) -> int:
    (host,) = {parent_of(platform.pids()[name]) for name in platform.workers()}
    return host


async def test_three_workers_of_one_host_share_no_ops_and_pictures(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    model = model_of(store.open(pack(tiny_sd(0), store)), "test/tiny")
    with running_platform(tmp_path, "--workers", str(WORKERS), *SIZES) as platform:
        host = host_of(platform)
        assert threads_of(host) == 1
        async with platform.async_client() as client:
            assert len(await client.workers.list()) == WORKERS
            await client.models.register(NOOP)
            await client.models.register(model)
            no_ops = [client.run(NOOP.id, {"run_ms": 100}) for _ in range(4 * WORKERS)]
            pictures = [client.run(model.id, {**DRAW, "seed": seed}) for seed in range(WORKERS)]
            done = await asyncio.gather(*no_ops, *pictures)
        assert {request.state for request in done} == {RequestState.SUCCEEDED}
        served_by = {each.receipt.worker_id for each in done if each.receipt is not None}
        assert served_by == set(platform.workers())
        pids = platform.pids()
        assert platform.stop() == 0
        for pid in (host, *pids.values()):
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, Model]]:
    """A platform of one worker that has drawn its first picture."""
    folder = tmp_path_factory.mktemp("platform")
    store = SnapshotStore(folder / "snapshots")
    model = model_of(store.open(pack(tiny_sd(0), store)), "test/tiny")
    with running_platform(folder, *SIZES) as platform:
        with platform.client() as client:
            client.models.register(model)
            first = client.run(model.id, DRAW)
            assert first.receipt is not None
            assert first.receipt.start_tier is Tier.DISK
        yield platform, model


async def drawn_despite_a_kill(client: AsyncClient, model: Model, victim: int) -> Request:
    """Kills a process (-9) while a picture is being drawn; the picture, drawn all the same."""
    submitted = await client.submit(model.id, LONG)
    killed = False
    async for event in client.watch(submitted.request_id):
        if isinstance(event, Progressed) and not killed:
            os.kill(victim, signal.SIGKILL)
            killed = True
        if isinstance(event, Finished):
            assert killed
            return event.request
    raise AssertionError(f"{submitted.request_id} has no end")


@pytest.mark.parametrize("dies", ["worker", "host"])
async def test_a_killed_process_costs_a_request_an_attempt_and_not_the_pinned_tier(
    drawn: tuple[Platform, Model], dies: str
) -> None:
    platform, model = drawn
    (name,) = platform.workers()
    before, host = platform.pids()[name], host_of(platform)
    victim = before if dies == "worker" else host
    async with platform.async_client() as client:
        request = await drawn_despite_a_kill(client, model, victim)
        await until(lambda: platform.pids()[name] != before, "a new worker in the run file")
    assert request.state is RequestState.SUCCEEDED
    assert request.receipt is not None
    assert request.receipt.attempts == 2
    assert request.receipt.start_tier is Tier.PINNED
    assert (host_of(platform) == host) == (dies == "worker")
