"""What a worker keeps of the LoRAs of requests: within bounds, each read once while it is kept."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from quickthaw.snapshot import LoadedModel, SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import InvalidArgument, InvalidInput, StorageFull, StoreUnavailable
from quickthaw.worker.adapter_limits import AdapterLimits
from quickthaw.worker.adapters import Adapters
from quickthaw.worker.attempts import Tier
from quickthaw.worker.inputs import LoraInput
from support.loras import lora
from support.snapshots import a_loader
from support.tiny_models import tiny_sd

GROWTH_BYTES_MAX = 12 << 20


class Blobs:
    """A blob store of one file under every name, and the names that were read."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.read: list[str] = []

    def __call__(self, key: str, path: Path, bytes_max: int) -> str:
        self.read.append(key)
        if len(self.data) > bytes_max:
            raise InvalidArgument(f"it has {len(self.data)} bytes, and this worker takes fewer")
        path.write_bytes(self.data)
        return hashlib.sha256(self.data).hexdigest()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SnapshotStore:
    store = SnapshotStore(tmp_path_factory.mktemp("store"))
    pack(tiny_sd(0), store)
    return store


@pytest.fixture(scope="module")
def model(store: SnapshotStore) -> Iterator[LoadedModel]:
    (digest,) = (path.name for path in (store.root / "snapshots").iterdir())
    with a_loader(store) as loader, loader.load(digest) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    folder = tmp_path_factory.mktemp("blobs")
    return Blobs(lora(folder / "a.safetensors", tiny_sd(0), ("unet",), rank=128))


def named(number: int, scale: float = 1.0) -> LoraInput:
    return LoraInput(f"blob:loras/{number:043d}", scale)


def an_adapters(
    store: SnapshotStore, folder: Path, blobs: Blobs, limits: AdapterLimits | None = None
) -> Adapters:
    blobs.read.clear()
    return Adapters(store, folder / "loras", limits, read_blob=blobs)


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_one_that_is_kept_is_read_once_whatever_its_scale(
    store: SnapshotStore, model: LoadedModel, blobs: Blobs, tmp_path: Path
) -> None:
    adapters = an_adapters(store, tmp_path, blobs)
    (first,) = adapters.bring("a", model, [named(1)])
    (second,) = adapters.bring("b", model, [named(1, -2.0)])
    assert len(blobs.read) == 1
    assert (first.source, second.source) == (Tier.REMOTE, Tier.VRAM)
    assert first.digest == second.digest == hashlib.sha256(blobs.data).hexdigest()
    weights = [next(iter(adapters.take(each)[0]["unet"].values())) for each in "ab"]
    assert [each.scale for each in weights] == [1.0, -2.0]
    assert weights[0].down is weights[1].down
    assert list((tmp_path / "loras").iterdir()) == []


def test_the_least_recently_used_is_read_again(
    store: SnapshotStore, model: LoadedModel, blobs: Blobs, tmp_path: Path
) -> None:
    one = an_adapters(store, tmp_path, blobs).bring("a", model, [named(1)])[0].size_bytes
    adapters = an_adapters(store, tmp_path, blobs, AdapterLimits(kept_bytes_max=2 * one))
    for number in (1, 2, 1, 3, 1, 2):
        adapters.bring("a", model, [named(number)])
    assert [int(key.partition("/")[2]) for key in blobs.read] == [1, 2, 3, 2]
    assert adapters.kept_bytes == 2 * one


def test_many_different_ones_leave_memory_bounded(
    store: SnapshotStore, model: LoadedModel, blobs: Blobs, tmp_path: Path
) -> None:
    adapters = an_adapters(store, tmp_path, blobs, AdapterLimits(kept_bytes_max=4 << 20))

    def bring(numbers: range) -> None:
        for number in numbers:
            adapters.bring("a", model, [named(number)])
            adapters.take("a")

    bring(range(8))
    before = resident_bytes()
    bring(range(8, 48))
    assert len(blobs.data) * 40 > 2 * GROWTH_BYTES_MAX, "more than could be overlooked"
    assert resident_bytes() - before < GROWTH_BYTES_MAX
    assert adapters.kept_bytes <= 4 << 20


def test_what_is_too_large_or_does_not_come_leaves_nothing(
    store: SnapshotStore, model: LoadedModel, blobs: Blobs, tmp_path: Path
) -> None:
    adapters = an_adapters(store, tmp_path, blobs, AdapterLimits(file_bytes_max=1000))
    with pytest.raises(InvalidInput, match=r"input\.loras\[0\]\.path: it has") as caught:
        adapters.bring("a", model, [named(1), named(2)])
    assert caught.value.violations[0].field == "input.loras[0].path"
    assert adapters.take("a") == ()

    def broken(key: str, path: Path, bytes_max: int) -> str:
        path.write_bytes(b"half")
        raise StoreUnavailable("the blob store is away")

    def full(key: str, path: Path, bytes_max: int) -> str:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for read_blob, error in ((broken, StoreUnavailable), (full, StorageFull)):
        away = Adapters(store, tmp_path / "away", read_blob=read_blob)
        with pytest.raises(error):
            away.bring("a", model, [named(1)])
        assert list((tmp_path / "away").iterdir()) == []


def test_what_an_earlier_process_left_is_gone(store: SnapshotStore, tmp_path: Path) -> None:
    (tmp_path / "loras" / "lora-x").mkdir(parents=True)
    (tmp_path / "loras" / "lora-x" / "lora.safetensors").write_bytes(b"x")
    Adapters(store, tmp_path / "loras")
    assert list((tmp_path / "loras").iterdir()) == []


def test_what_is_inside_the_input_is_bounded_before_it_is_decoded(
    store: SnapshotStore, model: LoadedModel, blobs: Blobs, tmp_path: Path
) -> None:
    adapters = an_adapters(store, tmp_path, blobs, AdapterLimits(file_bytes_max=1000))
    inline = f"data:application/octet-stream;base64,{'A' * 1400}"
    with pytest.raises(InvalidInput, match=r"loras\[0\]\.path: it has 1050 bytes"):
        adapters.bring("a", model, [LoraInput(inline, 1.0)])
