"""The load path: what is read, shared, refused, and what is left behind when something fails."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from quickthaw.snapshot import Component, CpuDevice, Loader, LoadProgress, Slab, SnapshotStore, Tier
from quickthaw.snapshot.copiers import open_source
from quickthaw.wire.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SnapshotCorrupt,
    SnapshotInvalid,
)
from support.lagging_device import LaggingDevice
from support.snapshots import MIB, a_loader, draw, flip_bit


def test_a_model_comes_from_disk_then_vram_then_the_slab(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    digest = digests["sd"]
    with a_loader(store) as loader:
        with loader.load(digest) as first:
            assert first.report.source is Tier.DISK
            assert {part.copier for part in first.report.components} == {"page_cache"}
            picture = draw(first.pipeline)
        with loader.load(digest) as second:
            assert second.report.source is Tier.VRAM
            assert second.report.bytes_from(Tier.VRAM) == second.manifest.weight_bytes
        for part in store.open(digest).manifest.components:
            assert loader.evict(part.digest, Tier.VRAM) >= part.data_bytes
        with loader.load(digest) as third:
            assert third.report.source is Tier.PINNED
            assert torch.equal(draw(third.pipeline), picture)


def test_the_report_accounts_for_the_time(store: SnapshotStore, digests: dict[str, str]) -> None:
    shares: list[float] = []
    for _ in range(5):
        with a_loader(store) as loader, loader.load(digests["sdxl"]) as loaded:
            report = loaded.report
        parts = (
            report.manifest_seconds
            + report.skeleton_seconds
            + report.tokenizer_seconds
            + report.bytes_seconds
            + report.bind_seconds
            + report.pipeline_seconds
        )
        assert report.fixed_seconds == pytest.approx(parts - report.bytes_seconds)
        # Modules are bound while bytes move.
        one_after_another = parts - report.bind_seconds - report.pipeline_seconds
        shares.append(one_after_another / report.total_seconds)
        assert report.bytes_by_copier() == {"page_cache": loaded.manifest.weight_bytes}
        assert all(part.read_seconds > 0 for part in report.components)
        assert [part.name for part in report.components] == [
            "text_encoder",
            "text_encoder_2",
            "unet",
            "vae",
        ]
    # What is told of no part is a few lines of Python, unless another process ran between them.
    assert max(shares) >= 0.9
    assert all(share <= 1.0 + 1e-9 for share in shares)


def test_preparing_takes_skeletons_and_tokenizers_off_the_load(
    store: SnapshotStore, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_loader(store) as loader:
        loader.prepare(digests["sd"])
        built: list[str] = []
        monkeypatch.setattr("quickthaw.snapshot.skeleton_pool.build", built.append)
        monkeypatch.setattr("quickthaw.snapshot.processors.build_processor", built.append)
        with loader.load(digests["sd"]) as loaded:
            draw(loaded.pipeline)
        assert built == []


def test_models_share_components_in_memory(store: SnapshotStore, digests: dict[str, str]) -> None:
    with a_loader(store) as loader:
        base, tuned = loader.load(digests["sd"]), loader.load(digests["sd-tuned"])
        try:
            assert base.pipeline.vae is tuned.pipeline.vae
            assert base.pipeline.text_encoder is tuned.pipeline.text_encoder
            assert base.pipeline.unet is not tuned.pipeline.unet
            assert base.pipeline.scheduler is not tuned.pipeline.scheduler
            assert tuned.report.bytes_from(Tier.DISK) == tuned.manifest.component("unet").data_bytes
            assert not torch.equal(draw(base.pipeline), draw(tuned.pipeline))
        finally:
            base.release()
        vae = tuned.manifest.component("vae").digest
        with pytest.raises(FailedPrecondition, match="1 loaded models use it"):
            loader.evict(vae, Tier.VRAM)
        draw(tuned.pipeline)
        tuned.release()
        assert loader.evict(vae, Tier.VRAM) > 0


def test_a_component_in_use_is_not_evicted(store: SnapshotStore, digests: dict[str, str]) -> None:
    with a_loader(store) as loader, loader.load(digests["sd"]) as loaded:
        for part in loaded.manifest.components:
            with pytest.raises(FailedPrecondition, match="release it first"):
                loader.evict(part.digest, Tier.VRAM)
            # On a CPU both tiers are one copy of the bytes.
            with pytest.raises(FailedPrecondition, match="vram tier's memory"):
                loader.evict(part.digest, Tier.PINNED)
        draw(loaded.pipeline)


def test_with_memory_of_its_own_a_device_does_not_need_the_slabs_copy(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    device = LaggingDevice(64 * MIB)
    with (
        a_loader(store, device=device) as loader,
        loader.load(digests["sd"]) as loaded,
    ):
        picture = draw(loaded.pipeline)
        for part in loaded.manifest.components:
            assert loader.evict(part.digest, Tier.PINNED) > 0
            assert loader.evict(part.digest, Tier.PINNED) == 0
        assert torch.equal(draw(loaded.pipeline), picture)


def test_on_a_cpu_the_slab_and_the_model_share_one_copy(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    slab = Slab(24 * MIB, staging_bytes=8 * MIB)
    loader = Loader(store, CpuDevice(64 * MIB), slab)
    start, end = slab.memory.address, slab.memory.address + slab.memory.nbytes
    with loader.load(digests["sd"]) as loaded:
        kept = loaded.pipeline.unet.conv_in.weight.data[:]
        places = [each.data_ptr() for each in loaded.pipeline.unet.parameters()]
        assert all(start <= place < end for place in places)
        assert slab.total_bytes - slab.free_bytes < loaded.manifest.weight_bytes + 64 * 1024
    parts = loaded.manifest.components
    for part in parts:
        loader.evict(part.digest, Tier.VRAM)
    unet = loaded.manifest.component("unet").digest
    with pytest.raises(FailedPrecondition):  # a tensor still sees those bytes
        loader.evict(unet, Tier.PINNED)
    del kept
    for part in parts:
        assert loader.evict(part.digest, Tier.PINNED) > 0
    assert slab.free_bytes == slab.total_bytes
    loader.close()
    slab.close()


def test_a_stale_pipeline_fails_instead_of_reading_freed_memory(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_loader(store) as loader:
        loaded = loader.load(digests["sd"])
        stale = loaded.pipeline
        loaded.release()
        loaded.release()
        with pytest.raises(RuntimeError, match="released"):
            _ = loaded.pipeline
        for part in loaded.manifest.components:
            loader.evict(part.digest, Tier.VRAM)
        assert all(parameter.is_meta for parameter in stale.unet.parameters())


def test_a_pipeline_that_cast_its_vae_leaves_no_trace(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_loader(store) as loader:
        with loader.load(digests["sd"]) as loaded:
            picture = draw(loaded.pipeline)
            torch.nn.Module.to(loaded.pipeline.vae, dtype=torch.float16)
        with loader.load(digests["sd"]) as loaded:
            assert loaded.pipeline.vae.dtype == torch.float32
            assert torch.equal(draw(loaded.pipeline), picture)


def test_residency_names_every_tier(store: SnapshotStore, digests: dict[str, str]) -> None:
    with a_loader(store) as loader:
        part = store.open(digests["sd"]).manifest.component("unet")
        assert loader.residency()[part.digest].tiers == {Tier.DISK}
        assert loader.promote(part.digest).source is Tier.DISK
        assert loader.promote(part.digest).source is Tier.PINNED
        assert loader.residency()[part.digest].tiers == {Tier.DISK, Tier.PINNED}
        assert loader.promote(part.digest, Tier.VRAM).source is Tier.PINNED
        line = loader.residency()[part.digest]
        assert line.tiers == {Tier.DISK, Tier.PINNED, Tier.VRAM}
        assert (line.nbytes, line.users) == (part.data_bytes, 0)
        assert loader.plan(digests["sd"]).bytes_from(Tier.VRAM) == part.data_bytes
        with loader.load(digests["sd"]) as loaded:
            assert {each.name for each in loaded.report.components if each.source is Tier.VRAM} == {
                "unet"
            }
            assert loader.residency()[part.digest].users == 1


def test_disk_is_not_for_the_loader_to_evict(store: SnapshotStore, digests: dict[str, str]) -> None:
    part = store.open(digests["sd"]).manifest.component("unet")
    with a_loader(store) as loader:
        for tier in (Tier.DISK, Tier.REMOTE):
            with pytest.raises(InvalidArgument):
                loader.evict(part.digest, tier)
            with pytest.raises(InvalidArgument):
                loader.promote(part.digest, tier)


def test_unknown_digests_are_not_found(store: SnapshotStore) -> None:
    with a_loader(store) as loader:
        for digest in ("0" * 64, "../../etc"):
            with pytest.raises(NotFound):
                loader.load(digest)
            with pytest.raises(NotFound):
                loader.evict(digest, Tier.VRAM)


def test_without_room_in_vram_nothing_stays_held(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    manifest = store.open(digests["sd"]).manifest
    room = manifest.weight_bytes - manifest.component("vae").data_bytes + 1024
    with a_loader(store, vram_bytes=room) as loader:
        with pytest.raises(ResourceExhausted, match="evict something first") as caught:
            loader.load(digests["sd"])
        assert caught.value.metadata["resource"] == "vram"
        assert all(line.users == 0 for line in loader.residency().values())
        for part in manifest.components:
            loader.evict(part.digest, Tier.VRAM)
        assert all(Tier.VRAM not in line.tiers for line in loader.residency().values())


def test_a_slab_smaller_than_the_model_streams(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_loader(store, slab_bytes=4 * MIB, staging_bytes=4 * MIB) as loader:
        with loader.load(digests["sd"]) as loaded:
            picture = draw(loaded.pipeline)
            assert all(Tier.PINNED not in line.tiers for line in loader.residency().values())
        with pytest.raises(ResourceExhausted) as caught:
            loader.promote(loaded.manifest.component("unet").digest)
        assert caught.value.metadata["resource"] == "pinned"
    with a_loader(store) as loader, loader.load(digests["sd"]) as loaded:
        assert torch.equal(draw(loaded.pipeline), picture)


def test_two_loads_at_once_read_each_component_once(
    store: SnapshotStore, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(path: Path, component: Component, *rest: Any) -> Any:
        read.append(component.digest)
        return open_source(path, component, *rest)

    monkeypatch.setattr("quickthaw.snapshot.ways.open_source", counting)
    gate = threading.Barrier(3)
    with a_loader(store) as loader, ThreadPoolExecutor(3) as pool:

        def load(name: str) -> set[str]:
            gate.wait()
            with loader.load(digests[name]) as loaded:
                return {part.digest for part in loaded.manifest.components}

        wanted = set().union(*pool.map(load, ("sd", "sd", "sd-tuned")))
    assert sorted(read) == sorted(wanted)


def test_progress_counts_every_byte_once(store: SnapshotStore, digests: dict[str, str]) -> None:
    told: list[LoadProgress] = []
    with a_loader(store) as loader:
        loader.load(digests["flux"], on_progress=told.append).release()
    manifest = store.open(digests["flux"]).manifest
    total = sum(part.data_bytes for part in manifest.components)
    assert told[-1].loaded_bytes == told[-1].total_bytes == total
    assert [each.loaded_bytes for each in told] == sorted(each.loaded_bytes for each in told)


def test_giving_up_in_the_progress_callback_releases_everything(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    def give_up(progress: LoadProgress) -> None:
        if progress.component == "unet":
            raise KeyError("enough")

    with a_loader(store) as loader:
        with pytest.raises(KeyError, match="enough"):
            loader.load(digests["sd"], on_progress=give_up)
        unet = store.open(digests["sd"]).manifest.component("unet").digest
        assert loader.residency()[unet].tiers == {Tier.DISK}
        assert all(line.users == 0 for line in loader.residency().values())
        loader.load(digests["sd"]).release()


def test_a_flipped_bit_is_named_and_reaches_no_model(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    part = damaged.open(digests["sd"]).manifest.component("unet")
    flip_bit(damaged.component_path(part.digest), part.data_start + part.data_bytes // 2)
    with a_loader(damaged) as loader:
        with pytest.raises(SnapshotCorrupt, match="component unet, block 0") as caught:
            loader.load(digests["sd"])
        assert caught.value.metadata["block"] == "0"
        assert caught.value.metadata["offset"] == str(part.data_start)
        assert loader.residency()[part.digest].tiers == {Tier.DISK}
        assert all(line.users == 0 for line in loader.residency().values())
        # Without checking it would load: that the check is on by default is the point.
        loader.load(digests["sd"], verify=False).release()


@pytest.mark.parametrize("damage", ["corrupt", "cut off"])
def test_a_failed_load_gives_back_its_memory(
    damage: str, damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    part = damaged.open(digests["sd"]).manifest.components[0]
    path = damaged.component_path(part.digest)
    device, slab = CpuDevice(64 * MIB), Slab(16 * MIB, staging_bytes=4 * MIB)
    loader = Loader(damaged, device, slab, readers=2)
    loader.prepare(digests["sd"])
    if damage == "corrupt":
        flip_bit(path, part.data_start)
    else:
        os.truncate(path, part.data_start)
    with pytest.raises(SnapshotCorrupt, match=part.name):
        loader.load(digests["sd"])
    assert device.free_bytes == device.total_bytes
    assert slab.free_bytes == slab.total_bytes
    loader.close()


@pytest.mark.parametrize("cut", [1, 10_000, 10**9])
def test_a_truncated_component_is_corrupt(
    cut: int, damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    path = damaged.component_path(damaged.open(digests["sd"]).manifest.component("vae").digest)
    with path.open("r+b") as file:
        file.truncate(max(path.stat().st_size - cut, 0))
    with a_loader(damaged) as loader, pytest.raises(SnapshotCorrupt, match="component vae"):
        loader.load(digests["sd"])


def test_a_component_cut_off_after_its_header_was_read_is_corrupt(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    part = damaged.open(digests["sd"]).manifest.component("vae")
    with a_loader(damaged) as loader:
        loader.prepare(digests["sd"])
        with damaged.component_path(part.digest).open("r+b") as file:
            file.truncate(part.data_start + 100)
        with pytest.raises(SnapshotCorrupt, match="ended too early"):
            loader.load(digests["sd"])


def test_a_missing_component_is_named(damaged: SnapshotStore, digests: dict[str, str]) -> None:
    path = damaged.component_path(damaged.open(digests["sd"]).manifest.component("vae").digest)
    path.unlink()
    with a_loader(damaged) as loader, pytest.raises(SnapshotInvalid, match="missing"):
        loader.load(digests["sd"])


def test_a_link_in_place_of_a_component_is_refused(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    path = damaged.component_path(damaged.open(digests["sd"]).manifest.component("vae").digest)
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))
    with a_loader(damaged) as loader, pytest.raises(SnapshotInvalid, match="symbolic link"):
        loader.load(digests["sd"])


def test_a_damaged_tokenizer_is_corrupt(damaged: SnapshotStore, digests: dict[str, str]) -> None:
    (blob, *_) = damaged.open(digests["sd"]).manifest.processors[0].files.values()
    flip_bit(damaged.blob_path(blob.digest), 10)
    with a_loader(damaged) as loader, pytest.raises(SnapshotCorrupt):
        loader.load(digests["sd"])


def test_a_snapshot_added_later_is_found(
    store: SnapshotStore, digests: dict[str, str], tmp_path: object
) -> None:
    late = SnapshotStore(f"{tmp_path}/late")
    with a_loader(late) as loader:
        assert loader.residency() == {}
        late.import_(store.root)
        part = late.open(digests["sd"]).manifest.component("vae")
        assert loader.promote(part.digest).source is Tier.DISK
