"""Prefetches: only while idle, one after the other, and out of everybody's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

import pytest

from quickthaw.snapshot import Loader, SnapshotStore
from quickthaw.wire.errors import ResourceExhausted
from quickthaw.worker.attempts import Assignment, Tier
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.ports import RunStopped
from quickthaw.worker.prefetching import WAITING_MAX, Prefetch, Prefetcher, Promoting
from support.patience import PATIENCE_SECONDS


class SlowLoader:
    """Reads one block of a component each time that the test lets it."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.go_on = threading.Semaphore(0)
        self.promoted: list[str] = []
        self.failure: Exception | None = None

    def open(self, digest: str) -> None: ...

    def promote(
        self, digest: str, to: object, *, verify: bool, on_bytes: Callable[[int], None]
    ) -> None:
        if self.failure is not None:
            raise self.failure
        self.reading.set()
        assert self.go_on.acquire(timeout=PATIENCE_SECONDS)
        self.reading.clear()
        on_bytes(1)
        self.promoted.append(digest)


class Rig:
    def __init__(self) -> None:
        self.loader = SlowLoader()
        self.idle = True
        self.metrics = WorkerMetrics()
        store = cast("SnapshotStore", {"a", "b"})
        loader = cast("Loader", self.loader)
        self.promoting = Promoting(store, loader, None, verify=True, on_moved=lambda: None)
        self.prefetcher = Prefetcher(lambda: self.idle, self.metrics)
        self.prefetcher.begin(self.promoting, lambda: None)

    def ask(self, snapshot: str = "a", *digests: str) -> None:
        like = Assignment("", "", f"test/{snapshot}", "sd", snapshot, "", "", 0, (), 0)
        self.prefetcher.ask(Prefetch(like, digests or ("one", "two"), Tier.VRAM))

    def counted(self, outcome: str) -> float:
        name, labels = "quickthaw_worker_prefetches_total", {"outcome": outcome}
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until_reading(self) -> None:
        assert await asyncio.to_thread(self.loader.reading.wait, PATIENCE_SECONDS)


async def test_components_come_in_the_order_that_was_asked_for() -> None:
    rig = Rig()
    rig.loader.go_on.release(2)
    rig.ask("a", "encoder", "unet")
    task = rig.prefetcher._task
    assert task is not None
    await task
    await rig.prefetcher.close()
    assert rig.loader.promoted == ["encoder", "unet"]
    assert rig.counted("done") == 1


async def test_a_busy_worker_drops_what_it_is_asked_for() -> None:
    rig = Rig()
    rig.idle = False
    rig.ask()
    await rig.prefetcher.close()
    assert rig.counted("dropped") == 1
    assert not rig.loader.promoted


async def test_no_more_than_a_bounded_number_wait() -> None:
    rig = Rig()
    rig.ask()
    await rig.until_reading()
    for _ in range(WAITING_MAX + 3):
        rig.ask()
    rig.loader.go_on.release(1)
    await rig.prefetcher.close()
    assert rig.counted("dropped") == 3


async def test_an_attempt_for_something_else_stops_what_is_under_way_at_its_next_block() -> None:
    rig = Rig()
    rig.ask("a")
    await rig.until_reading()
    rig.prefetcher.give_way("b")
    waits = asyncio.create_task(asyncio.to_thread(rig.promoting.give_way, "b"))
    await asyncio.sleep(0)
    assert not waits.done()
    rig.loader.go_on.release(1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await waits
    await rig.prefetcher.close()
    assert rig.loader.promoted == []
    assert rig.counted("given_up") == 1


async def test_an_attempt_for_the_same_snapshot_is_not_kept_waiting_and_takes_over() -> None:
    rig = Rig()
    rig.ask("a", "one", "two")
    await rig.until_reading()
    rig.prefetcher.give_way("a")
    rig.promoting.give_way("a")  # returns at once: the load joins what is under way
    rig.loader.go_on.release(1)
    task = rig.prefetcher._task
    assert task is not None
    await task
    await rig.prefetcher.close()
    assert rig.loader.promoted == ["one"]


@pytest.mark.parametrize("error", [ResourceExhausted("no room"), MemoryError()])
async def test_what_fails_is_a_failed_hint_and_no_more(error: Exception) -> None:
    rig = Rig()
    rig.loader.failure = error
    rig.ask("a")
    rig.ask("b")
    task = rig.prefetcher._task
    assert task is not None
    await task
    await rig.prefetcher.close()
    assert rig.counted("failed") == 2


def test_a_load_never_sees_that_a_prefetch_was_stopped() -> None:
    rig = Rig()
    like = Assignment("", "", "test/a", "sd", "a", "", "", 0, (), 0)

    def stopped(*_: object, **__: object) -> None:
        raise RunStopped

    rig.loader.promote = stopped  # type: ignore[method-assign]  # as a stop in a reader thread
    assert rig.promoting.run(Prefetch(like, ("one",), Tier.VRAM)) is False


async def test_one_whose_thread_has_not_begun_gives_way_too() -> None:
    rig = Rig()
    busy = threading.Event()
    rig.prefetcher._thread.submit(busy.wait, PATIENCE_SECONDS)
    rig.ask("a")
    for _ in range(3):
        await asyncio.sleep(0)
    assert not rig.promoting.idle
    rig.prefetcher.give_way("b")
    busy.set()
    await rig.prefetcher.close()
    assert rig.loader.promoted == []
    assert rig.counted("given_up") == 1
