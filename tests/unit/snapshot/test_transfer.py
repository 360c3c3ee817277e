"""Files of many blocks: spans in parallel, streaming, both I/O paths."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from quickthaw.snapshot import Component, CpuDevice, Kind, Slab, SnapshotStore
from quickthaw.snapshot.copiers import DirectSource, PageCacheSource, Source, open_file
from quickthaw.snapshot.format import TensorSpec
from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.memory import Memory
from quickthaw.snapshot.transfer import Transfer
from quickthaw.wire.errors import SettingsInvalid, SnapshotCorrupt
from support.lagging_device import LaggingDevice
from support.snapshots import MIB, flip_bit
from support.transfers import fill, send

DATA_BYTES = 9 * BLOCK_BYTES + 12_345


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(5).randbytes(DATA_BYTES)


@pytest.fixture
def component(tmp_path: Path, content: bytes) -> Component:
    with SnapshotStore(tmp_path).writing() as writer:
        written = writer.add_component(
            [TensorSpec("a", "U8", (DATA_BYTES,))], [memoryview(content)]
        )
    return Component(
        name="unet",
        kind=Kind.DENOISER,
        class_path="diffusers.UNet2DConditionModel",
        config={},
        attention=None,
        dtypes=("U8",),
        digest=written.digest,
        header_digest=written.header_digest,
        data_start=written.data_start,
        data_bytes=written.data_bytes,
        blocks=written.blocks,
        aliases={},
    )


@pytest.fixture
def path(tmp_path: Path, component: Component) -> Path:
    return SnapshotStore(tmp_path).component_path(component.digest)


@pytest.fixture
def readers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


def opened(path: Path, component: Component) -> Source:
    return open_file(path, component.data_start, component.file_bytes)


def drop_from_cache(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def test_staging_smaller_than_a_block_is_a_wrong_setting(readers: ThreadPoolExecutor) -> None:
    slab = Slab(8 * MIB, staging_bytes=4096)
    with pytest.raises(SettingsInvalid, match="staging"):
        Transfer(slab, CpuDevice(MIB), readers, 1, time.perf_counter)


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("staging_bytes", [BLOCK_BYTES, 3 * BLOCK_BYTES, 40 * MIB])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_arrives_whole_streamed_or_pinned(
    cold: bool,
    pinned: bool,
    staging_bytes: int,
    component: Component,
    path: Path,
    content: bytes,
    readers: ThreadPoolExecutor,
) -> None:
    device = CpuDevice(80 * MIB)
    slab = Slab(staging_bytes + 40 * MIB, staging_bytes=staging_bytes)
    transfer = Transfer(slab, device, readers, 3, time.perf_counter)
    room = slab.allocate(component.data_bytes) if pinned else None
    buffer = device.allocate(component.data_bytes)
    told: list[int] = []
    if cold:
        drop_from_cache(path)
    done = fill(transfer, component, path, room, buffer, told.append)
    assert done.copier == ("direct" if cold else "page_cache")
    assert sum(told) == DATA_BYTES
    assert done.read_seconds > 0
    assert buffer.data[:DATA_BYTES].numpy().tobytes() == content
    if room is not None:
        again = device.allocate(component.data_bytes)
        send(transfer, component, room, again, told.append)
        assert again.data[:DATA_BYTES].numpy().tobytes() == content


@pytest.mark.parametrize("block", [0, 4, 9])
def test_the_damaged_block_and_its_place_are_named(
    block: int, component: Component, path: Path, readers: ThreadPoolExecutor
) -> None:
    offset = component.data_start + block * BLOCK_BYTES
    flip_bit(path, offset + 12_344, bit=7)
    device = CpuDevice(64 * MIB)
    slab = Slab(48 * MIB, staging_bytes=4 * MIB)
    transfer = Transfer(slab, device, readers, 3, time.perf_counter)
    room = slab.allocate(component.data_bytes)
    with pytest.raises(SnapshotCorrupt) as caught:
        fill(transfer, component, path, room, None)
    assert caught.value.metadata["component"] == "unet"
    assert caught.value.metadata["block"] == str(block)
    assert caught.value.metadata["offset"] == str(offset)


def test_no_reader_is_left_running_when_one_fails(
    component: Component, path: Path, readers: ThreadPoolExecutor
) -> None:
    """The memory they write to is given to others next."""
    both_inside, go_on, finished = threading.Barrier(2), threading.Event(), threading.Event()

    def on_bytes(count: int) -> None:
        both_inside.wait()
        if threading.current_thread().name.endswith("_0"):
            threading.Timer(0.05, go_on.set).start()
            raise KeyError("first reader")
        go_on.wait()
        finished.set()

    slab = Slab(48 * MIB, staging_bytes=4 * MIB)
    transfer = Transfer(slab, CpuDevice(MIB), readers, 2, time.perf_counter)
    room = slab.allocate(component.data_bytes)
    with pytest.raises(KeyError, match="first reader"):
        fill(transfer, component, path, room, None, on_bytes)
    assert finished.is_set()


@pytest.mark.parametrize("nbytes", [1, 4096, 4097, 3 * MIB + 7])
def test_both_io_paths_read_the_same_bytes(nbytes: int, tmp_path: Path) -> None:
    content = random.Random(nbytes).randbytes(4096 + nbytes)
    file = tmp_path / "file"
    file.write_bytes(content)
    for source in (
        PageCacheSource(os.open(file, os.O_RDONLY), 4096, ""),
        DirectSource(os.open(file, os.O_RDONLY | os.O_DIRECT), 4096, ""),
    ):
        with closing(source):
            target = Memory(nbytes).view
            assert source.read_into(0, target, nbytes) == nbytes
            assert target[:nbytes] == content[4096:]
            short = source.read_into(0, Memory(nbytes + 5000).view, nbytes + 5000)
            assert short == nbytes


def test_cold_files_go_past_the_page_cache_and_warm_ones_through_it(
    path: Path, component: Component
) -> None:
    hashlib.sha256(path.read_bytes())
    assert opened(path, component).name == "page_cache"
    drop_from_cache(path)
    with closing(opened(path, component)) as cold:
        assert (cold.name, cold.why) == ("direct", "0% is in the page cache")
    assert open_file(path, 4096, 1000).name == "page_cache", "too small to matter"


@pytest.mark.parametrize("staging_bytes", [BLOCK_BYTES, 3 * BLOCK_BYTES])
@pytest.mark.parametrize("pinned", [True, False])
def test_nothing_is_overwritten_before_its_copy_has_happened(
    pinned: bool,
    staging_bytes: int,
    component: Component,
    path: Path,
    content: bytes,
    readers: ThreadPoolExecutor,
) -> None:
    device = LaggingDevice(80 * MIB)
    slab = Slab(staging_bytes + 40 * MIB, staging_bytes=staging_bytes)
    transfer = Transfer(slab, device, readers, 3, time.perf_counter)
    room = slab.allocate(component.data_bytes) if pinned else None
    buffer = device.allocate(component.data_bytes)
    fill(transfer, component, path, room, buffer)
    assert buffer.data[:DATA_BYTES].numpy().tobytes() == content
    if room is not None:
        again = device.allocate(component.data_bytes)
        send(transfer, component, room, again)
        room.view[:DATA_BYTES] = bytes(DATA_BYTES)
        assert again.data[:DATA_BYTES].numpy().tobytes() == content


@pytest.mark.parametrize("from_disk", [True, False])
def test_copies_under_way_are_bounded_so_that_an_urgent_load_waits_for_few(
    from_disk: bool,
    component: Component,
    path: Path,
    content: bytes,
    readers: ThreadPoolExecutor,
) -> None:
    device = LaggingDevice(80 * MIB)
    slab = Slab(48 * MIB, staging_bytes=4 * MIB)
    limit = 4 * BLOCK_BYTES
    transfer = Transfer(slab, device, readers, 1, time.perf_counter, in_flight_bytes=limit)
    room = slab.allocate(component.data_bytes)
    buffer = device.allocate(component.data_bytes)
    if from_disk:
        fill(transfer, component, path, room, buffer)
    else:
        fill(transfer, component, path, room, None)
        send(transfer, component, room, buffer)
    # The copy that goes over the bound is the one whose reader then waits.
    assert limit < DATA_BYTES
    assert device.pending_bytes_max <= limit + BLOCK_BYTES
    assert buffer.data[:DATA_BYTES].numpy().tobytes() == content


def test_a_load_that_is_given_up_leaves_no_copy_under_way(
    component: Component, path: Path, readers: ThreadPoolExecutor
) -> None:
    """Its ranges of the slab go to others, whose bytes a late copy would read."""

    def give_up(count: int) -> None:
        raise KeyError("given up")

    device = LaggingDevice(80 * MIB)
    slab = Slab(48 * MIB, staging_bytes=4 * MIB)
    transfer = Transfer(slab, device, readers, 3, time.perf_counter)
    room = slab.allocate(component.data_bytes)
    buffer = device.allocate(component.data_bytes)
    with pytest.raises(KeyError, match="given up"):
        fill(transfer, component, path, room, buffer, give_up)
    assert device.pending == []
    with pytest.raises(KeyError, match="given up"):
        send(transfer, component, room, buffer, give_up)
    assert device.pending == []
