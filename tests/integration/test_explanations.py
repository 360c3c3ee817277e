"""Why a request ran where it did can be asked for after a restart, within a bound."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from quickthaw.v1 import fleet_pb2
from support.fake_worker import FakeWorker
from support.schedulers import FAST, Running, a_scheduler, submission


async def explained(running: Running, request_id: str) -> fleet_pb2.ExplainResponse:
    return await running.admin.fleet.Explain(fleet_pb2.ExplainRequest(request_id=request_id))


async def flushed(running: Running) -> None:
    """What happens once a second."""
    await running.scheduler.explanations.flush()
    await running.scheduler.dispatcher.durable()


async def test_an_explanation_survives_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with a_scheduler(data) as running:
        async with FakeWorker(running.address, running.worker_key, automatic=True):
            answer = await running.admin.inference.Run(submission())
        before = await explained(running, answer.request_id)
        await flushed(running)
    async with a_scheduler(data) as running:
        after = await explained(running, answer.request_id)
    assert before.decisions
    assert after == before


async def test_a_request_that_waits_after_a_restart_is_explained_as_it_is_now(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    async with a_scheduler(data) as running:
        request_id = await running.admin.submit()
        await flushed(running)
    async with a_scheduler(data) as running, FakeWorker(running.address, running.worker_key):
        found = await explained(running, request_id)
    assert [each.attempt for each in found.decisions] == [1]


async def test_without_room_nothing_is_kept(tmp_path: Path) -> None:
    data, none = tmp_path / "data", dataclasses.replace(FAST, explanations_max=0)
    async with a_scheduler(data, limits=none) as running:
        async with FakeWorker(running.address, running.worker_key, automatic=True):
            answer = await running.admin.inference.Run(submission())
        await flushed(running)
    async with a_scheduler(data) as running:
        assert not (await explained(running, answer.request_id)).decisions


async def test_only_the_newest_are_kept(tmp_path: Path, store_url: str) -> None:
    few = dataclasses.replace(FAST, explanations_max=3)
    async with a_scheduler(tmp_path / "one", limits=few, store_url=store_url) as running:
        async with FakeWorker(running.address, running.worker_key, automatic=True):
            ran = [(await running.admin.inference.Run(submission())).request_id for _ in range(7)]
        await flushed(running)
        for _ in range(2):  # the second finds nothing to forget
            running.scheduler.explanations.purge()
    async with a_scheduler(tmp_path / "one", limits=few, store_url=store_url) as running:
        kept = [bool((await explained(running, each)).decisions) for each in ran]
    assert kept == [False] * 4 + [True] * 3


async def test_more_than_a_second_takes_are_the_newest(tmp_path: Path) -> None:
    data, few = tmp_path / "data", dataclasses.replace(FAST, explanations_per_second_max=2)
    async with a_scheduler(data, limits=few) as running:
        async with FakeWorker(running.address, running.worker_key, automatic=True):
            ran = [(await running.admin.inference.Run(submission())).request_id for _ in range(5)]
        await flushed(running)
    async with a_scheduler(data) as running:
        kept = [bool((await explained(running, each)).decisions) for each in ran]
    assert kept[-2:] == [True, True]
