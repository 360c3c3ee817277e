"""Models that are up are taken into use without waiting for the loader's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore
from quickthaw.worker.attempts import Assignment, LoadSummary, Tier
from quickthaw.worker.models import ModelHost
from support.studio import Packed

MIB = 1024 * 1024


@pytest.fixture
def host(packed: Packed) -> Iterator[ModelHost]:
    device = CpuDevice(512 * MIB)
    slab = Slab(64 * MIB, device=device, staging_bytes=16 * MIB)
    store = SnapshotStore(packed.folder)
    loader = Loader(store, device, slab)
    host = ModelHost(store, loader, device, slab, verify=False, on_evicted=lambda tier: None)
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
    assert host.load_resident(an_assignment(packed, "before")) is None
    load(host, an_assignment(packed, "first"))
    host.release("first")
    summary = host.load_resident(an_assignment(packed, "second"))
    assert summary is not None
    assert {part.source for part in summary.components} == {Tier.VRAM}
    # In use: what the scheduler wants gone stays until the attempt is done.
    host.unload(tuple(packed.components("sd").values()), Tier.VRAM)
    assert host.load_resident(an_assignment(packed, "third")) is not None
    host.release("second")
    host.release("third")
    host.unload(tuple(packed.components("sd").values()), Tier.VRAM)
    assert host.load_resident(an_assignment(packed, "fourth")) is None


def test_what_has_to_wait_is_left_to_the_loader(host: ModelHost, packed: Packed) -> None:
    load(host, an_assignment(packed, "first"))
    assert host.load_resident(an_assignment(packed, "evicts", evict=("ab" * 32,))) is None
    moving, done = threading.Event(), threading.Event()

    def move() -> None:
        with host._moves:  # As a load of something else holds it, for as long as that takes.
            moving.set()
            assert done.wait(30)

    thread = threading.Thread(target=move)
    thread.start()
    assert moving.wait(30)
    assert host.load_resident(an_assignment(packed, "meanwhile")) is None
    done.set()
    thread.join()
    assert host.load_resident(an_assignment(packed, "after")) is not None
