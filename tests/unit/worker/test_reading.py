"""Reading ahead: what a worker finds in its slab when it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quickthaw.snapshot import Component, Slab, SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.wire.hosting import new_slab
from quickthaw.worker.reading import read_ahead
from support.tiny_models import tiny_sd

MIB = 1 << 20


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SnapshotStore, str]:
    store = SnapshotStore(tmp_path_factory.mktemp("packed"))
    return store, pack(tiny_sd(), store)


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = new_slab("quickthaw-test")
    yield descriptor
    os.close(descriptor)


def a_slab(memory: int, nbytes: int = 32 * MIB) -> Slab:
    return Slab(nbytes, staging_bytes=4 * MIB, descriptor=memory)


def on_disk(store: SnapshotStore, part: Component) -> bytes:
    content = store.component_path(part.digest).read_bytes()[part.data_start :]
    return content[: part.data_bytes]


def test_the_next_owner_of_the_slab_finds_every_component(
    packed: tuple[SnapshotStore, str], memory: int
) -> None:
    store, digest = packed
    parts = store.open(digest).manifest.components
    assert read_ahead(a_slab(memory), store, [digest]) == sum(part.data_bytes for part in parts)
    # A second reader has nothing left to read, and takes nothing away.
    assert read_ahead(a_slab(memory), store, [digest]) == 0
    slab = a_slab(memory)
    for part in parts:
        claimed = slab.claim(part.digest, part.data_bytes)
        assert claimed is not None
        assert bytes(claimed.view[: part.data_bytes]) == on_disk(store, part)


def test_what_differs_from_the_manifest_is_not_left_for_anybody(
    tmp_path: Path, memory: int
) -> None:
    store = SnapshotStore(tmp_path)
    digest = pack(tiny_sd(), store)
    first = store.open(digest).manifest.components[0]
    with store.component_path(first.digest).open("r+b") as file:
        file.seek(first.data_start)
        file.write(b"\xff" * 16)
    assert read_ahead(a_slab(memory), store, [digest]) == 0
    slab = a_slab(memory)
    assert slab.claim(first.digest, first.data_bytes) is None
    assert slab.free_bytes == slab.total_bytes


def test_a_slab_that_is_full_ends_the_reading(
    packed: tuple[SnapshotStore, str], memory: int
) -> None:
    store, digest = packed
    first, second, *_ = store.open(digest).manifest.components
    slab = a_slab(memory, 4 * MIB + 512 * 1024)
    assert first.data_bytes < slab.free_bytes < first.data_bytes + second.data_bytes
    assert read_ahead(slab, store, [digest, digest]) == first.data_bytes


def test_nothing_of_it_waits_for_torch() -> None:
    code = (
        "import sys, quickthaw.worker.prepared as prepared; "
        "assert prepared.read_ahead; assert not {'torch', 'numpy', 'grpc'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
