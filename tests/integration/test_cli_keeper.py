"""A part under its keeper: real processes that pretend to be a part."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from quickthaw.cli.errors import PartFailed
from quickthaw.cli.fleet import Ready, WorkerSpec
from quickthaw.cli.fleet.local import LocalFleet
from quickthaw.cli.up.fleet_keeper import FleetKeeper
from quickthaw.cli.up.keeper import Keeper
from quickthaw.cli.up.process import Command
from quickthaw.cli.up.settings import UpSettings
from quickthaw.wire.errors import Unavailable
from quickthaw.wire.process import Address
from quickthaw.wire.restarts import RestartPolicy
from support.patience import PATIENCE_SECONDS

TESTS = Path(__file__).parents[1]
MODULE = "support.pretend_worker"
HOST = "support.pretend_host"
ANY = Address("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def _pretend_parts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


def settings(data_dir: Path) -> UpSettings:
    return UpSettings(
        data_dir=data_dir,
        http=ANY,
        grpc=ANY,
        metrics=ANY,
        drain_seconds=1,
        restart=RestartPolicy(pause_seconds=0.01, pause_seconds_max=0.02, failed_starts_max=3),
    )


def a_command(tmp_path: Path, worker_id: str = "w-0") -> Command:
    key_file = tmp_path / "key"
    key_file.write_text("qt_key")
    return Command(
        name="scheduler",
        arguments=(MODULE, "--worker-id", worker_id, "--key-file", str(key_file)),
        ready_word="quickthaw-worker",
        log=tmp_path / "logs" / "scheduler.log",
        environment={},
    )


async def test_a_killed_part_is_started_again_and_told_what_it_was_before(tmp_path: Path) -> None:
    told: list[Mapping[str, str]] = []
    ready: asyncio.Queue[int] = asyncio.Queue()

    def make(before: Mapping[str, str]) -> Command:
        told.append(before)
        return a_command(tmp_path)

    def on_ready(_name: str, _values: Mapping[str, str]) -> None:
        ready.put_nowait(keeper.pid or 0)

    keeper = Keeper(make, settings(tmp_path), lambda _: None, on_ready)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await keeper.start()
        keeping = asyncio.create_task(keeper.keep())
        first = await ready.get()
        os.kill(first, signal.SIGKILL)
        assert await ready.get() != first
        keeping.cancel()
        await keeper.stop()
    assert told == [{}, {"worker": "w-0", "metrics": "http://127.0.0.1:1/metrics"}]


async def test_a_part_that_comes_back_broken_is_given_up_with_its_last_words(
    tmp_path: Path,
) -> None:
    starts: list[str] = []

    def make(_before: Mapping[str, str]) -> Command:
        starts.append("w-broken" if starts else "w-0")
        return a_command(tmp_path, starts[-1])

    keeper = Keeper(make, settings(tmp_path), lambda _: None, lambda _name, _values: None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await keeper.start()
        os.kill(keeper.pid or 0, signal.SIGKILL)
        with pytest.raises(PartFailed, match="scheduler failed to start 3 times") as caught:
            await keeper.keep()
    assert "the device is on fire" in caught.value.last_lines
    assert len(starts) == 4


async def test_a_part_that_the_machine_cannot_start_now_is_tried_again(tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    commands = [
        a_command(tmp_path),
        replace(a_command(tmp_path), log=no_folder / "scheduler.log"),
        a_command(tmp_path),
    ]
    watched = Watched()

    def on_ready(_name: str, _values: Mapping[str, str]) -> None:
        watched.pids.put_nowait(keeper.pid or 0)

    keeper = Keeper(lambda _: commands.pop(0), settings(tmp_path), watched.report, on_ready)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await keeper.start()
        keeping = asyncio.create_task(keeper.keep())
        first = await watched.pids.get()
        os.kill(first, signal.SIGKILL)
        await watched.until_said("the scheduler cannot be started: [Errno")
        assert await watched.pids.get() != first
        keeping.cancel()
        await keeper.stop()


async def test_a_first_start_that_fails_is_not_repeated(tmp_path: Path) -> None:
    keeper = Keeper(
        lambda _: a_command(tmp_path, "w-broken"),
        settings(tmp_path),
        lambda _: None,
        lambda _name, _values: None,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(PartFailed, match="ended with status 3 before it was ready"):
            await keeper.start()
    assert "the device is on fire" in (tmp_path / "logs" / "scheduler.log").read_text()


def worker_specs(tmp_path: Path, *names: str) -> list[WorkerSpec]:
    key_file = tmp_path / "key"
    key_file.write_text("qt_key")
    return [
        WorkerSpec(
            worker_id=name,
            scheduler="127.0.0.1:1",
            key_file=key_file,
            data_dir=tmp_path,
            snapshot_store=tmp_path,
            blob_store=str(tmp_path),
            device="cpu",
            drain_seconds=1,
        )
        for name in names
    ]


async def test_one_worker_that_cannot_start_ends_the_fleets_keeping(tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    specs = worker_specs(tmp_path, "w-good", "w-broken")
    keeper = FleetKeeper(fleet, specs, settings(tmp_path), lambda _: None, lambda _: None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(PartFailed, match="w-broken ended with status 3") as caught:
            await keeper.keep()
        await fleet.close()
    assert caught.value.last_lines == ("slab 0", "the device is on fire")
    assert not keeper.all_ready.is_set()


class Watched:
    """What a keeper says, to be waited for."""

    def __init__(self) -> None:
        self.pids: asyncio.Queue[int] = asyncio.Queue()
        self._said: asyncio.Queue[str] = asyncio.Queue()

    def ready(self, change: Ready) -> None:
        self.pids.put_nowait(change.pid)

    def report(self, text: str) -> None:
        self._said.put_nowait(text)

    async def until_said(self, part: str) -> None:
        while part not in await self._said.get():
            pass


async def test_a_worker_that_keeps_dying_is_tried_ever_more_rarely_and_harms_no_other(
    tmp_path: Path,
) -> None:
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    watched, (spec,) = Watched(), worker_specs(tmp_path, "w-0")
    options = replace(settings(tmp_path), crash_pause_seconds=0.05)
    keeper = FleetKeeper(fleet, [spec], options, watched.report, watched.ready)
    keeping = asyncio.create_task(keeper.keep())
    async with asyncio.timeout(PATIENCE_SECONDS):
        pid = await watched.pids.get()
        spec.key_file.write_text("broken")
        os.kill(pid, signal.SIGKILL)
        await watched.until_said("failed to start 3 times in a row; giving up: worker w-0 is tried")
        await watched.until_said("the device is on fire")
        assert not keeping.done()
        spec.key_file.write_text("qt_key")
        assert await watched.pids.get() != pid
        keeping.cancel()
        await fleet.close()


async def test_a_fleet_grows_and_what_is_let_go_is_not_started_again(tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    watched, specs = Watched(), worker_specs(tmp_path, "w-0", "w-1")
    keeper = FleetKeeper(fleet, specs, settings(tmp_path), watched.report, watched.ready, first=0)
    keeping = asyncio.create_task(keeper.keep())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await keeper.all_ready.wait()
        assert list(keeper.wanted) == []
        keeper.grow(1)
        pid = await watched.pids.get()
        assert list(keeper.wanted) == ["w-0"]
        keeper.let_go("w-0")
        os.kill(pid, signal.SIGTERM)
        await watched.until_said("as it was told to")
        keeper.grow(2)
        assert await watched.pids.get() != pid
        await watched.pids.get()
        assert list(keeper.wanted) == ["w-0", "w-1"]
        keeping.cancel()
        await fleet.close()


class FleetThatRefusesOnce(LocalFleet):
    """Refuses to start the second worker that it is asked for."""

    asked = 0

    async def create(self, spec: WorkerSpec) -> None:
        self.asked += 1
        if self.asked == 2:
            raise Unavailable("there are no processes to be had")
        await super().create(spec)


async def test_a_worker_that_cannot_be_asked_for_again_now_is_asked_for_later(
    tmp_path: Path,
) -> None:
    fleet = FleetThatRefusesOnce(tmp_path / "logs", gpus=0, module=HOST)
    watched, specs = Watched(), worker_specs(tmp_path, "w-0")
    keeper = FleetKeeper(fleet, specs, settings(tmp_path), watched.report, watched.ready)
    keeping = asyncio.create_task(keeper.keep())
    async with asyncio.timeout(PATIENCE_SECONDS):
        pid = await watched.pids.get()
        os.kill(pid, signal.SIGKILL)
        await watched.until_said("w-0 cannot be started: there are no processes to be had")
        assert await watched.pids.get() != pid
        assert not keeping.done()
        keeping.cancel()
        await fleet.close()


async def test_a_worker_that_a_grown_fleet_cannot_start_harms_no_other(tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    watched, specs = Watched(), worker_specs(tmp_path, "w-0", "w-broken")
    keeper = FleetKeeper(fleet, specs, settings(tmp_path), watched.report, watched.ready, first=1)
    keeping = asyncio.create_task(keeper.keep())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await watched.pids.get()
        keeper.grow(2)
        await watched.until_said("w-broken failed to start 3 times in a row")
        assert not keeping.done()
        keeping.cancel()
        await fleet.close()
