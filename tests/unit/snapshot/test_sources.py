"""Where a component's bytes come from: the choice, its reason, and damage on every way."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from quickthaw.cli.bench import page_cache
from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore, Tier
from quickthaw.snapshot.copiers import cached_fraction
from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.memory import Memory
from quickthaw.snapshot.transfer import Move, Transfer
from quickthaw.wire.errors import SnapshotCorrupt
from support.lagging_device import LaggingDevice
from support.large_components import MemorySource, a_component
from support.snapshots import MIB, a_loader, draw, flip_bit

IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def on_tmpfs(packed: tuple[Path, dict[str, str]]) -> Iterator[SnapshotStore]:
    if not os.access(IN_MEMORY, os.W_OK):
        pytest.skip("no tmpfs on this machine")
    folder = IN_MEMORY / f"quickthaw-test-{os.getpid()}"
    shutil.copytree(packed[0], folder)
    yield SnapshotStore(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("own_memory", [False, True])
def test_files_that_are_memory_are_used_in_place(
    own_memory: bool, on_tmpfs: SnapshotStore, store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_loader(store) as loader, loader.load(digests["sd"]) as loaded:
        picture = draw(loaded.pipeline)
    device = LaggingDevice(64 * MIB) if own_memory else CpuDevice(64 * MIB)
    slab = Slab(24 * MIB, staging_bytes=8 * MIB)
    loader = Loader(on_tmpfs, device, slab)
    with loader.load(digests["sd"]) as loaded:
        assert {part.copier for part in loaded.report.components} == {"mapped"}
        assert {part.why for part in loaded.report.components} == {"its file is in memory"}
        assert loaded.report.source is Tier.DISK
        assert slab.free_bytes == slab.total_bytes
        assert torch.equal(draw(loaded.pipeline), picture)
        if not own_memory:
            loaded.pipeline.unet.conv_in.weight.data.zero_()
    for part in loaded.manifest.components:
        assert Tier.PINNED in loader.residency()[part.digest].tiers
        loader.evict(part.digest, Tier.VRAM)
        loader.evict(part.digest, Tier.PINNED)
    with loader.load(digests["sd"]) as again:
        assert torch.equal(draw(again.pipeline), picture), "the file is never written to"
    loader.close()
    slab.close()


@pytest.mark.parametrize("damage", ["flipped", "cut off"])
def test_damage_to_a_mapped_file_is_named(
    damage: str, on_tmpfs: SnapshotStore, digests: dict[str, str]
) -> None:
    part = on_tmpfs.open(digests["sd"]).manifest.component("unet")
    path = on_tmpfs.component_path(part.digest)
    with a_loader(on_tmpfs) as loader:
        loader.prepare(digests["sd"])
        if damage == "flipped":
            flip_bit(path, part.data_start + 17)
        else:
            os.truncate(path, part.data_start + 17)
        with pytest.raises(SnapshotCorrupt, match="component unet, block 0"):
            loader.load(digests["sd"])
        assert all(line.users == 0 for line in loader.residency().values())


@pytest.mark.parametrize(
    ("span_bytes", "streams", "own_memory"),
    list(itertools.product((256 * 1024, BLOCK_BYTES, 8 * MIB), (False, True), (False, True))),
)
@pytest.mark.parametrize("damage", ["none", "flipped", "ends early"])
def test_every_span_size_delivers_and_checks_the_same(
    span_bytes: int, streams: bool, own_memory: bool, damage: str
) -> None:
    component, content = a_component(2 * BLOCK_BYTES + 70_001)
    source = MemorySource(content, span_bytes, readers=3)
    if damage == "flipped":
        source.content[BLOCK_BYTES + 300_000] ^= 4
    elif damage == "ends early":
        del source.content[BLOCK_BYTES + 300_000 :]
    device = LaggingDevice(40 * MIB) if own_memory else CpuDevice(40 * MIB)
    slab = Slab(24 * MIB, staging_bytes=2 * BLOCK_BYTES)
    room = None if streams else slab.allocate(component.data_bytes)
    with ThreadPoolExecutor(3) as pool:
        transfer = Transfer(slab, device, pool, 3, time.perf_counter)
        buffer = (room and device.wrap(room, component.data_bytes)) or device.allocate(
            component.data_bytes
        )
        move = Move(component, source, room, buffer, True, lambda _: None)
        if damage == "none":
            with transfer.moving([move]) as job:
                assert job.finish(move).copier == "memory"
            assert buffer.data[: component.data_bytes].numpy().tobytes() == content
        else:
            with (
                pytest.raises(SnapshotCorrupt, match=r"component unet, block [12]"),
                transfer.moving([move]) as job,
            ):
                job.finish(move)


def test_bytes_in_flight_are_bounded() -> None:
    component, content = a_component(12 * BLOCK_BYTES)
    source = MemorySource(content, BLOCK_BYTES, readers=8)
    # Nobody goes on before three are reading: a fourth would be seen.
    source.before_any = threading.Barrier(3, timeout=30).wait
    slab = Slab(64 * MIB, staging_bytes=BLOCK_BYTES)
    room = slab.allocate(component.data_bytes)
    with ThreadPoolExecutor(8) as pool:
        transfer = Transfer(
            slab, CpuDevice(MIB), pool, 8, time.perf_counter, in_flight_bytes=3 * BLOCK_BYTES
        )
        move = Move(component, source, room, None, True, lambda _: None)
        with transfer.moving([move]) as job:
            job.finish(move)
    assert source.most_at_once == 3


def test_the_next_component_begins_while_the_last_one_ends() -> None:
    """The first one's last span does not end before the second one has begun."""
    slab = Slab(64 * MIB, staging_bytes=BLOCK_BYTES)
    begun = threading.Event()
    moves: list[Move] = []
    for number in range(2):
        component, content = a_component(2 * BLOCK_BYTES, seed=number)
        source = MemorySource(content, BLOCK_BYTES, readers=2)
        if number == 0:
            source.before_last = begun.wait
        else:
            source.before_first = begun.set
        room = slab.allocate(component.data_bytes)
        moves.append(Move(component, source, room, None, True, lambda _: None))
    with ThreadPoolExecutor(2) as pool:
        transfer = Transfer(slab, CpuDevice(MIB), pool, 2, time.perf_counter)
        with transfer.moving(moves) as job:
            for move in moves:
                job.finish(move)


def test_huge_pages_are_measured_not_assumed() -> None:
    memory = Memory(8 * MIB)
    assert memory.huge_fraction() == 0.0
    memory.touch(1)
    assert 0.0 <= memory.huge_fraction() <= 1.0
    assert memory.report_pages("test") == pytest.approx(memory.huge_fraction())


@pytest.mark.parametrize("cached_mib", [0, 7, 20, 32])
def test_samples_tell_how_much_of_a_large_file_is_in_the_page_cache(
    cached_mib: int, tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(32 * MIB))
    page_cache.drop([path])
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # reads what is asked for alone
        for start in range(0, cached_mib * MIB, MIB):
            os.pread(file.fileno(), MIB, start)
        exact = cached_fraction(file.fileno(), 32 * MIB)
        sampled = cached_fraction(file.fileno(), 32 * MIB, sampled=True)
    assert exact == pytest.approx(cached_mib / 32, abs=0.01)
    assert sampled == pytest.approx(exact, abs=0.02)
