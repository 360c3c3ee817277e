"""The load path on a real device: the same bits, pinned copies, memory given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot import Loader, Slab, SnapshotStore, Tier
from support.snapshots import BUILDERS, MIB, draw, pack_all, tensors_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SnapshotStore, dict[str, str]]:
    root: Path = tmp_path_factory.mktemp("store")
    return SnapshotStore(root), pack_all(root)


@pytest.fixture
def loader(packed: tuple[SnapshotStore, dict[str, str]]) -> Iterator[Loader]:
    from quickthaw.snapshot import CudaDevice

    device = CudaDevice(0)
    slab = Slab(64 * MIB, device=device, staging_bytes=16 * MIB)
    loader = Loader(packed[0], device, slab)
    yield loader
    loader.close()
    slab.close()


def test_registered_memory_counts_as_pinned() -> None:
    from quickthaw.snapshot import CudaDevice

    slab = Slab(8 * MIB, device=CudaDevice(0), staging_bytes=4 * MIB)
    assert torch.frombuffer(slab.staging.view, dtype=torch.uint8).is_pinned()
    slab.close()


@pytest.mark.parametrize("family", BUILDERS)
def test_weights_on_the_device_are_those_of_the_original(
    family: str, packed: tuple[SnapshotStore, dict[str, str]], loader: Loader
) -> None:
    original = BUILDERS[family](0)
    for source in (Tier.DISK, Tier.VRAM, Tier.PINNED):
        with loader.load(packed[1][family]) as loaded:
            assert loaded.report.source is source
            for part in loaded.manifest.components:
                ours = tensors_of(getattr(loaded.pipeline, part.name))
                for name, tensor in tensors_of(getattr(original, part.name)).items():
                    assert ours[name].device.type == "cuda"
                    assert torch.equal(ours[name].cpu(), tensor), (part.name, name)
            assert torch.isfinite(draw(loaded.pipeline)).all()
        if source is Tier.VRAM:
            for part in loaded.manifest.components:
                loader.evict(part.digest, Tier.VRAM)


def test_eviction_gives_the_memory_back_to_the_driver(
    packed: tuple[SnapshotStore, dict[str, str]], loader: Loader
) -> None:
    loaded = loader.load(packed[1]["sd"])
    loaded.release()
    before, _ = torch.cuda.mem_get_info()
    for part in loaded.manifest.components:
        loader.evict(part.digest, Tier.VRAM)
    assert torch.cuda.mem_get_info()[0] > before
