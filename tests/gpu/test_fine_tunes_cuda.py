"""Deltas and LoRAs on a real device: the bits of diffusers and peft there, and of the base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot import CudaDevice, Loader, Slab, SnapshotStore
from quickthaw.snapshot.pack import pack
from support.deltas import tuned_sd
from support.loras import everything, lora, with_peft
from support.snapshots import MIB, draw, tensors_of
from support.tiny_models import tiny_sd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
CHANGED = ("conv_in.weight", "mid_block.resnets.0.conv1.weight")


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "store")


@pytest.fixture
def loader(store: SnapshotStore) -> Iterator[Loader]:
    device = CudaDevice(0)
    slab = Slab(64 * MIB, device=device, staging_bytes=16 * MIB)
    loader = Loader(store, device, slab)
    yield loader
    loader.close()
    slab.close()


def test_an_adapter_draws_what_peft_draws_and_leaves_the_base_as_it_was(
    store: SnapshotStore, loader: Loader, tmp_path: Path
) -> None:
    path = lora(tmp_path / "x.safetensors", tiny_sd(0), ("unet", "text_encoder"), choose=everything)
    base = pack(tiny_sd(0), store)
    digest = pack(path, store, base=base)
    expected = draw(with_peft(tiny_sd(0).to("cuda"), path))
    with loader.load(base) as plain, loader.load(digest) as model:
        before = draw(plain.pipeline)
        with model.adapted():
            assert torch.equal(draw(model.pipeline), expected)
        assert torch.equal(draw(plain.pipeline), before)
        assert not torch.equal(before, expected)


def test_a_delta_over_a_pinned_base_reads_only_what_differs(
    store: SnapshotStore, loader: Loader
) -> None:
    base = pack(tiny_sd(0), store)
    wanted = tuned_sd(*CHANGED)
    digest = pack(wanted, store, base=base)
    with loader.load(base), loader.load(digest) as model:
        unet = model.manifest.component("unet")
        assert 0 < model.report.read_bytes < unet.data_bytes / 4
        found = tensors_of(model.pipeline.unet)
        for name, tensor in tensors_of(wanted.unet).items():
            assert torch.equal(found[name].cpu(), tensor), name
