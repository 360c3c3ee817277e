"""One suite for every provisioner: what `up` relies on, whoever starts the workers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quickthaw.cli.fleet import Exited, Provisioner, Ready, WorkerSpec, hosted, local
from quickthaw.cli.fleet.hosted import WorkerHost
from quickthaw.cli.fleet.local import LocalFleet
from quickthaw.cli.fleet.ray import RayFleet
from quickthaw.wire.errors import (
    FailedPrecondition,
    SettingsInvalid,
    Unavailable,
    WorkerNotFound,
)
from quickthaw.wire.hosting import new_slab
from support.descriptors import few_descriptors_left
from support.patience import PATIENCE_SECONDS
from support.platform import running_platform
from support.pretend_worker import OUTLIVES_SECONDS

TESTS = Path(__file__).parents[1]
MODULE = "support.pretend_worker"
HOST = "support.pretend_host"


@pytest.fixture(params=["local", "ray"])
async def fleet(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Provisioner]:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    made: Provisioner
    if request.param == "local":
        made = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    else:
        made = a_ray_fleet(tmp_path)
    yield made
    await made.close()


def a_ray_fleet(tmp_path: Path) -> RayFleet:
    return RayFleet(
        tmp_path / "logs",
        "local",
        MODULE,
        num_cpus=1,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=80 * 1024 * 1024,
    )


def a_spec(tmp_path: Path, worker_id: str = "w-0") -> WorkerSpec:
    key_file = tmp_path / "worker.key"
    key_file.write_text("qt_the_key")
    return WorkerSpec(
        worker_id=worker_id,
        scheduler="127.0.0.1:1",
        key_file=key_file,
        data_dir=tmp_path,
        snapshot_store=tmp_path / "snapshots",
        blob_store=str(tmp_path / "blobs"),
        device="cpu",
        drain_seconds=1,
    )


async def the_next(changes: AsyncIterator[Any]) -> Any:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await anext(changes)


async def logged(log: Path, words: str) -> None:
    """Waits for `words`: what a worker says of itself comes by another pipe than its ready line."""

    def wait() -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not log.exists() or words not in log.read_text():
            assert time.monotonic() < give_up, f"{log.name} never had {words!r}"
            time.sleep(0.02)

    await asyncio.to_thread(wait)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def ended(pid: int) -> None:
    """Waits for a process to end: a signal that was sent is not one that has done its work."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(descriptor, over.set)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.timeout(400)  # Ray starts Python four times, one after the other
async def test_a_worker_lives_from_create_to_destroy(fleet: Provisioner, tmp_path: Path) -> None:
    assert [offer.device for offer in await fleet.offers()] == ["cpu"]
    with pytest.raises(WorkerNotFound):
        await fleet.destroy("w-0")
    changes = fleet.watch()

    await fleet.create(a_spec(tmp_path))
    ready = await the_next(changes)
    assert isinstance(ready, Ready)
    assert (ready.worker_id, ready.metrics) == ("w-0", "http://127.0.0.1:1/metrics")
    assert not gone(ready.pid)
    await logged(tmp_path / "logs" / "w-0.log", "key qt_the_key")
    with pytest.raises(FailedPrecondition, match="w-0"):
        await fleet.create(a_spec(tmp_path))

    await fleet.destroy("w-0")
    assert gone(ready.pid)
    exited = await the_next(changes)
    assert isinstance(exited, Exited)
    assert (exited.worker_id, exited.status) == ("w-0", 0)

    # A killed worker is told, and its name is free again.
    await fleet.create(a_spec(tmp_path))
    ready = await the_next(changes)
    os.kill(ready.pid, signal.SIGKILL)
    exited = await the_next(changes)
    assert exited.status == -signal.SIGKILL

    # One that cannot start is told with what it said; there is no Ready before.
    await fleet.create(a_spec(tmp_path, "w-broken"))
    exited = await the_next(changes)
    assert isinstance(exited, Exited)
    assert (exited.worker_id, exited.status) == ("w-broken", 3)
    assert "the device is on fire" in exited.last_lines

    # Closing leaves nothing behind.
    await fleet.create(a_spec(tmp_path, "w-1"))
    ready = await the_next(changes)
    await fleet.close()
    assert gone(ready.pid)


async def test_a_worker_that_ignores_the_drain_is_killed(tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setattr("quickthaw.cli.fleet.local.KILL_MARGIN_SECONDS", 0.0)
        changes = fleet.watch()
        await fleet.create(a_spec(tmp_path, "w-stubborn"))
        ready = await the_next(changes)
        await fleet.destroy("w-stubborn")
        exited = await the_next(changes)
        await fleet.close()
    assert exited.status == -signal.SIGKILL
    assert gone(ready.pid)


async def test_a_worker_has_ended_whatever_still_holds_its_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setattr(hosted, "LAST_WORDS_SECONDS", 0.1)
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    changes = fleet.watch()
    await fleet.create(a_spec(tmp_path, "w-forking"))
    ready = await the_next(changes)
    began = time.monotonic()
    os.kill(ready.pid, signal.SIGKILL)
    exited = await the_next(changes)
    assert (exited.worker_id, exited.status) == ("w-forking", -signal.SIGKILL)
    assert time.monotonic() - began < OUTLIVES_SECONDS
    os.killpg(ready.pid, signal.SIGKILL)
    await fleet.close()


async def test_a_worker_that_cannot_be_asked_for_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    changes = fleet.watch()
    await fleet.create(a_spec(tmp_path))
    await the_next(changes)
    before = set(os.listdir("/proc/self/fd"))
    with few_descriptors_left(3), pytest.raises(Unavailable, match="Too many open files"):
        await fleet.create(a_spec(tmp_path, "w-1"))
    await fleet.forget("w-1")
    assert set(os.listdir("/proc/self/fd")) == before
    await fleet.create(a_spec(tmp_path, "w-1"))
    assert (await the_next(changes)).worker_id == "w-1"
    await fleet.close()


async def test_a_host_that_does_nothing_any_more_ends_with_the_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setattr(hosted, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(local, "KILL_MARGIN_SECONDS", 0.0)
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    changes = fleet.watch()
    await fleet.create(a_spec(tmp_path))
    worker = (await the_next(changes)).pid
    os.kill(parent_of(worker), signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await fleet.close()
        exited = await anext(changes)
        assert isinstance(exited, Exited)
        assert exited.status == -signal.SIGKILL
        await ended(worker)


async def test_a_host_that_cannot_start_is_told_with_what_it_said(tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module="support.there_is_no_such_host")
    changes = fleet.watch()
    await fleet.create(a_spec(tmp_path))
    exited = await the_next(changes)
    assert isinstance(exited, Exited)
    assert exited.status == 1
    assert "there_is_no_such_host" in exited.last_lines[-1]
    await fleet.close()


async def test_a_host_that_hangs_up_takes_along_whoever_was_still_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    slab = new_slab("w-0")
    host = await WorkerHost.start("support.host_that_hangs_up", tmp_path)
    more_than_a_socket_holds = "x" * 1_000_000
    async with asyncio.timeout(PATIENCE_SECONDS):
        workers = [
            *await asyncio.gather(
                host.start_worker("w-0", (more_than_a_socket_holds,), slab),
                host.start_worker("w-1", (), slab),
            )
        ]
        assert not host.alive
        workers.append(await host.start_worker("w-2", (), slab))
        assert [await each.exited() for each in workers] == [-signal.SIGKILL] * 3
        await host.close()
    os.close(slab)


async def test_workers_of_a_killed_host_are_told_and_start_over_the_slabs_they_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    fleet = LocalFleet(tmp_path / "logs", gpus=0, module=HOST)
    changes = fleet.watch()
    names = {"w-0", "w-1"}
    for name in names:
        await fleet.create(a_spec(tmp_path, name))
    before = {(await the_next(changes)).pid for _ in names}
    (host,) = {parent_of(pid) for pid in before}
    os.kill(host, signal.SIGKILL)
    ends = [await the_next(changes) for _ in names]
    assert {(end.worker_id, end.status) for end in ends} == {(name, -9) for name in names}
    for pid in before:
        await ended(pid)
    for name in names:
        await fleet.create(a_spec(tmp_path, name))
    after = {(await the_next(changes)).pid for _ in names}
    assert len({parent_of(pid) for pid in after} - {host}) == 1
    for name in names:
        await logged(tmp_path / "logs" / f"{name}.log", "slab 1")
    await fleet.close()


class RayThatIsSlow(ModuleType):
    """Does not come up for so many times, as on a machine that is busy."""

    def __init__(self, failures: int) -> None:
        super().__init__("ray")
        self.failures = failures
        self.killed = 0

    def kill_all_processes(self, **_: object) -> None:
        self.killed += 1

    def init(self, **_: object) -> None:
        if self.killed < self.failures:
            raise Exception("The current node timed out during startup.")

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


async def test_a_ray_that_does_not_come_up_is_started_again_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = RayThatIsSlow(failures=2)
    monkeypatch.setitem(sys.modules, "ray", slow)
    assert [offer.count for offer in await RayFleet(tmp_path).offers()] == [2]
    assert slow.killed == 2, "nothing of what did not come up may stay"

    monkeypatch.setitem(sys.modules, "ray", RayThatIsSlow(failures=100))
    with pytest.raises(Unavailable, match="Ray cannot be started: The current node timed out"):
        await RayFleet(tmp_path).offers()


def test_without_ray_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsInvalid, match=r"pip install 'quickthaw\[ray\]'"):
        RayFleet(tmp_path)


def test_a_platform_on_ray_serves_and_stops_as_one_without(tmp_path: Path) -> None:
    sizes = ("--vram-bytes", "256MiB", "--pinned-bytes", "64MiB")
    with running_platform(tmp_path, "--fleet", "ray", *sizes) as platform:
        with platform.client() as client:
            assert [worker.gpu_type for worker in client.workers.list()] == ["cpu"]
        pids = platform.pids()
        # Ray would abort the process at SIGTERM if its handlers were left in place.
        assert platform.stop() == 0
    assert all(gone(pid) for pid in pids.values())
