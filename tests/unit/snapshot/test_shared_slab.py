"""A slab that outlives its process: what the next one finds, believes, and checks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quickthaw.snapshot import CpuDevice, Device, Loader, Slab, SnapshotStore, Tier
from quickthaw.snapshot.slab_index import INDEX_BYTES
from quickthaw.wire.errors import SettingsInvalid
from support import filling
from support.lagging_device import LaggingDevice
from support.snapshots import MIB, draw

SLAB_BYTES = 16 * MIB


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = os.memfd_create("slab")
    yield opened
    os.close(opened)


def a_slab(descriptor: int, nbytes: int = SLAB_BYTES) -> Slab:
    return Slab(nbytes, staging_bytes=4 * MIB, touch_threads=1, descriptor=descriptor)


@contextmanager
def a_worker(
    store: SnapshotStore, descriptor: int, device: Device | None = None
) -> Iterator[Loader]:
    slab = a_slab(descriptor)
    loader = Loader(store, device or CpuDevice(64 * MIB), slab, readers=2)
    yield loader
    loader.close()
    slab.close()


@pytest.mark.parametrize("own_memory", [False, True])
def test_the_next_process_finds_the_pinned_tier(
    own_memory: bool, descriptor: int, store: SnapshotStore, digests: dict[str, str]
) -> None:
    def device() -> Device:
        return LaggingDevice(64 * MIB) if own_memory else CpuDevice(64 * MIB)

    with a_worker(store, descriptor, device()) as loader, loader.load(digests["sd"]) as loaded:
        picture = draw(loaded.pipeline)
    with a_worker(store, descriptor, device()) as loader:
        for part in loaded.manifest.components:
            assert Tier.PINNED in loader.residency()[part.digest].tiers
        with loader.load(digests["sd"]) as again:
            assert {part.source for part in again.report.components} == {Tier.PINNED}
            assert again.report.read_bytes == 0
            assert torch.equal(draw(again.pipeline), picture)


@pytest.mark.parametrize("own_memory", [False, True])
def test_what_was_changed_meanwhile_is_read_again(
    own_memory: bool, descriptor: int, store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_worker(store, descriptor) as loader, loader.load(digests["sd"]) as loaded:
        picture = draw(loaded.pipeline)
    slab = a_slab(descriptor)
    unet = loaded.manifest.component("unet")
    left = slab.claim(unet.digest, unet.data_bytes)
    assert left is not None
    left.view[unet.data_bytes // 2] ^= 1
    slab.close()
    device = LaggingDevice(64 * MIB) if own_memory else CpuDevice(64 * MIB)
    with a_worker(store, descriptor, device) as loader, loader.load(digests["sd"]) as again:
        sources = {part.name: part.source for part in again.report.components}
        assert sources.pop("unet") is Tier.DISK
        assert set(sources.values()) == {Tier.PINNED}
        assert torch.equal(draw(again.pipeline), picture)


def test_what_nobody_claims_makes_way(descriptor: int) -> None:
    slab = a_slab(descriptor)
    slab.allocate(5 * MIB).list_as("ab" * 32, 5 * MIB)
    slab.close()
    slab = a_slab(descriptor)
    assert slab.free_bytes == slab.total_bytes
    whole = slab.allocate(slab.total_bytes)
    assert slab.claim("ab" * 32, 5 * MIB) is None
    whole.release()
    slab.close()
    assert a_slab(descriptor).claim("ab" * 32, 5 * MIB) is None


def test_what_was_evicted_or_never_finished_is_not_found(descriptor: int) -> None:
    slab = a_slab(descriptor)
    gone = slab.allocate(MIB)
    gone.list_as("01" * 32, MIB)
    gone.release()
    slab.allocate(MIB)  # being filled when its process died
    slab.close()
    after = a_slab(descriptor)
    assert after.claim("01" * 32, MIB) is None
    assert after.free_bytes == after.total_bytes


def test_of_a_slab_of_another_size_nothing_is_kept(descriptor: int) -> None:
    slab = a_slab(descriptor)
    slab.allocate(MIB).list_as("ab" * 32, MIB)
    slab.close()
    larger = a_slab(descriptor, 2 * SLAB_BYTES)
    assert larger.claim("ab" * 32, MIB) is None
    assert larger.total_bytes == 2 * SLAB_BYTES - 4 * MIB - INDEX_BYTES


def test_a_shared_slab_needs_room_for_its_index(descriptor: int) -> None:
    with pytest.raises(SettingsInvalid, match="make the slab larger"):
        a_slab(descriptor, 4 * MIB)


@given(damage=st.lists(st.tuples(st.integers(0, INDEX_BYTES - 1), st.binary(max_size=80))))
@settings(max_examples=60)
def test_no_damage_to_the_index_gives_a_range_that_is_not_its_own(
    damage: list[tuple[int, bytes]],
) -> None:
    opened = os.memfd_create("slab")
    try:
        slab = a_slab(opened)
        for number in range(1, 4):
            slab.allocate(number * MIB).list_as(f"{number:02x}" * 32, number * MIB)
        index = slab.memory.view[-INDEX_BYTES:]
        for start, content in damage:
            content = content[: INDEX_BYTES - start]
            index[start : start + len(content)] = content
        slab.close()
        after = a_slab(opened)
        taken = [
            part
            for number in range(1, 4)
            if (part := after.claim(f"{number:02x}" * 32, number * MIB)) is not None
        ]
        rest = after.total_bytes - sum(part.nbytes for part in taken)
        assert after.free_bytes == rest
        places = sorted((part.offset, part.offset + part.nbytes) for part in taken)
        assert all(before[1] <= later[0] for before, later in pairwise(places))
    finally:
        os.close(opened)


def test_a_process_killed_at_any_moment_leaves_nothing_wrong(
    descriptor: int, packed: tuple[Path, dict[str, str]]
) -> None:
    """Whatever the next one takes over is whole: it is checked, and nothing fails the check."""
    chance = random.Random(11)
    store = SnapshotStore(packed[0])
    adopted = 0
    arguments = [str(descriptor), str(SLAB_BYTES), str(packed[0])]
    with subprocess.Popen(
        [sys.executable, "-m", filling.__name__, *arguments],
        cwd=Path(filling.__file__).parents[1],
        pass_fds=(descriptor,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(6):
            print(file=process.stdin, flush=True)
            child = int(process.stdout.readline())
            for _ in range(chance.randrange(1, 25)):
                process.stdout.readline()
            os.kill(child, signal.SIGKILL)
            while process.stdout.readline() != "dead\n":
                pass
            adopted += taken_over(store, descriptor)
    assert adopted > 0


def taken_over(store: SnapshotStore, descriptor: int) -> int:
    """How many components the next process finds, each of them whole."""
    slab = a_slab(descriptor)
    loader = Loader(store, CpuDevice(1 << 30), slab, readers=2)
    found = [digest for digest, line in loader.residency().items() if Tier.PINNED in line.tiers]
    for digest in found:
        report = loader.promote(digest, Tier.VRAM)
        assert report.source is Tier.PINNED, f"{digest} had to be read again"
    loader.close()
    slab.close()
    return len(found)
