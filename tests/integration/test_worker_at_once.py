"""Models that are up are taken into use without waiting for the loader's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore
from quickthaw.snapshot import Tier as StoreTier
from quickthaw.worker.attempts import Assignment, LoadSummary, NoRoomYet, Tier
from quickthaw.worker.models import ModelHost
from support.studio import Packed

MIB = 1024 * 1024


def a_host(packed: Packed, vram_bytes: int = 512 * MIB) -> ModelHost:
    device = CpuDevice(vram_bytes)
    slab = Slab(64 * MIB, device=device, staging_bytes=16 * MIB)
    store = SnapshotStore(packed.folder)
    loader = Loader(store, device, slab)
    return ModelHost(store, loader, device, slab, verify=False, on_evicted=lambda tier: None)


@pytest.fixture
def host(packed: Packed) -> Iterator[ModelHost]:
    host = a_host(packed)
    yield host
    host.close()


def an_assignment(packed: Packed, attempt_id: str, evict: tuple[str, ...] = ()) -> Assignment:
    digest = packed.digests["sd"]
    folder = str(packed.folder)
    return Assignment(attempt_id, "r", "test/sd", "sd", digest, folder, "{}", 1, evict, 0)


def load(host: ModelHost, assignment: Assignment) -> LoadSummary:
    summary = host.load(assignment, asyncio.Event())
    assert isinstance(summary, LoadSummary)
    return summary


def test_a_model_that_is_up_is_taken_into_use_at_once(host: ModelHost, packed: Packed) -> None:
    assert host.take_up(an_assignment(packed, "before")) is None
    load(host, an_assignment(packed, "first"))
    host.release("first")
    summary = host.take_up(an_assignment(packed, "second"))
    assert summary is not None
    assert {part.source for part in summary.components} == {Tier.VRAM}
    # In use: what the scheduler wants gone stays until the attempt is done.
    host.unload(tuple(packed.components("sd").values()), Tier.VRAM)
    assert host.take_up(an_assignment(packed, "third")) is not None
    host.release("second")
    host.release("third")
    host.unload(tuple(packed.components("sd").values()), Tier.VRAM)
    assert host.take_up(an_assignment(packed, "fourth")) is None


def test_what_has_to_be_evicted_first_is_left_to_the_loader(
    host: ModelHost, packed: Packed
) -> None:
    load(host, an_assignment(packed, "first"))
    there = next(iter(packed.components("sd").values()))
    assert host.take_up(an_assignment(packed, "evicts", evict=(there,))) is None
    gone = an_assignment(packed, "is told what has gone", evict=("ab" * 32,))
    assert host.take_up(gone) is not None


def test_a_model_that_is_up_is_taken_into_use_beside_another_load(
    host: ModelHost, packed: Packed
) -> None:
    load(host, an_assignment(packed, "first"))
    host.release("first")
    moving, done = threading.Event(), threading.Event()

    def move() -> None:
        with host._moves:  # As a load of something else holds it, for as long as that takes.
            moving.set()
            assert done.wait(30)

    thread = threading.Thread(target=move)
    thread.start()
    assert moving.wait(30)
    try:
        assert host.take_up(an_assignment(packed, "meanwhile")) is not None
    finally:
        done.set()
        thread.join()
    # And so that load could not evict it any more.
    host.free_idle()
    assert host.take_up(an_assignment(packed, "after")) is not None


def test_a_load_waits_when_what_it_would_evict_was_just_taken_into_use(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = a_host(packed, packed.weight_bytes("sdxl") + packed.weight_bytes("sd") // 2)
    load(host, an_assignment(packed, "first"))
    host.release("first")
    evict, taken = host._evict, list[LoadSummary | None]()

    def evict_late(digest: str, tier: StoreTier) -> bool:
        if not taken:  # The event loop is quicker than the loader's thread.
            taken.append(host.take_up(an_assignment(packed, "second")))
        return evict(digest, tier)

    monkeypatch.setattr(host, "_evict", evict_late)
    digest = packed.digests["sdxl"]
    other = replace(an_assignment(packed, "other"), snapshot_digest=digest, family="sdxl")
    assert host.load(other, asyncio.Event()) == NoRoomYet()
    assert taken != [None]
    host.release("second")
    load(host, other)
    host.close()
