"""Fine-tunes that are stored, and loaded, as what differs (FORMAT.md §8)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.delta import DeltaOrigin
from quickthaw.snapshot.manifest import DELTA_LAYERS_MAX, Component, Delta
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import NotFound, SnapshotCorrupt, SnapshotInvalid
from support.deltas import add_component, open_stored, read_all, size_of, tuned_sd
from support.original_layout import original_checkpoint
from support.snapshots import a_loader, draw, flip_bit, tensors_of
from support.tiny_models import tiny_sd

CHANGED = ("conv_in.weight", "mid_block.resnets.0.conv1.weight", "conv_out.bias")


@pytest.fixture
def tuned(tmp_path: Path) -> tuple[SnapshotStore, str, str]:
    """A store with tiny_sd and a fine-tune of three tensors over it: base and tuned digests."""
    store = SnapshotStore(tmp_path / "store")
    base = pack(tiny_sd(0), store)
    return store, base, pack(tuned_sd(*CHANGED), store, base=base)


def unet_of(store: SnapshotStore, digest: str) -> tuple[Component, Delta]:
    part = store.open(digest).manifest.component("unet")
    assert part.delta is not None
    return part, part.delta


def test_a_delta_holds_only_the_tensors_that_differ(tuned: tuple[SnapshotStore, str, str]) -> None:
    store, base, digest = tuned
    _, delta = unet_of(store, digest)
    assert delta.base == store.open(base).manifest.component("unet").digest
    (layer,) = delta.layers
    stored = load_file(store.delta_path(layer.digest))
    assert {name for name in stored if not name.startswith("__pad__")} == set(CHANGED)
    assert size_of(store.root / "components") == sum(
        part.file_bytes for part in store.open(base).manifest.components
    )


def test_the_component_keeps_the_identity_of_its_full_file(
    tuned: tuple[SnapshotStore, str, str], tmp_path: Path
) -> None:
    store, _, digest = tuned
    plain = SnapshotStore(tmp_path / "plain")
    full = plain.open(pack(tuned_sd(*CHANGED), plain)).manifest.component("unet")
    part, _ = unet_of(store, digest)
    assert (part.digest, part.header_digest, part.blocks) == (
        full.digest,
        full.header_digest,
        full.blocks,
    )


def test_a_loaded_delta_draws_what_the_fine_tune_draws(
    tuned: tuple[SnapshotStore, str, str],
) -> None:
    store, _, digest = tuned
    original = tuned_sd(*CHANGED)
    with a_loader(store) as loader, loader.load(digest) as model:
        for name, tensor in tensors_of(original.unet).items():
            assert torch.equal(tensors_of(model.pipeline.unet)[name], tensor), name
        assert torch.equal(draw(model.pipeline), draw(original))
        report = {part.name: part for part in model.report.components}
        assert report["unet"].copier == "delta"


def test_only_what_differs_is_read_where_the_base_is_in_memory(
    tuned: tuple[SnapshotStore, str, str],
) -> None:
    store, base, digest = tuned
    with a_loader(store) as loader, loader.load(base), loader.load(digest) as model:
        report = {part.name: part for part in model.report.components}
        assert [name for name, part in report.items() if part.read_bytes] == ["unet"]
        part, delta = unet_of(store, digest)
        assert report["unet"].read_bytes <= delta.layers[0].data_bytes
        assert model.report.read_bytes < part.data_bytes / 10
        assert torch.equal(draw(model.pipeline), draw(tuned_sd(*CHANGED)))


def test_a_fine_tune_that_shares_the_rest_loads_only_its_own_component(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_loader(store) as loader, loader.load(digests["sd"]) as base:
        with loader.load(digests["sd-tuned"]) as model:
            unet = model.manifest.component("unet")
            assert model.report.read_bytes == unet.data_bytes
            assert model.pipeline.vae is base.pipeline.vae
            assert model.pipeline.text_encoder is base.pipeline.text_encoder
            assert model.pipeline.unet is not base.pipeline.unet
            users = {digest: line.users for digest, line in loader.residency().items()}
            assert users[model.manifest.component("vae").digest] == 2
            assert users[unet.digest] == 1
        assert loader.residency()[base.manifest.component("vae").digest].users == 1


def test_a_fine_tune_of_a_fine_tune_stands_on_both(tuned: tuple[SnapshotStore, str, str]) -> None:
    store, _, first = tuned
    second = pack(tuned_sd(*CHANGED, "conv_norm_out.weight"), store, base=first)
    _, delta = unet_of(store, second)
    assert [len(load_file(store.delta_path(layer.digest))) > 0 for layer in delta.layers] == [
        True,
        True,
    ]
    with a_loader(store) as loader, loader.load(second) as model:
        expected = draw(tuned_sd(*CHANGED, "conv_norm_out.weight"))
        assert torch.equal(draw(model.pipeline), expected)


def test_a_chain_never_gets_deeper_than_its_limit(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    tensors = {f"t{index}": torch.full((5000,), float(index)) for index in range(12)}
    part = add_component(store, tensors)
    for round_ in range(DELTA_LAYERS_MAX + 2):
        tensors[f"t{round_}"] = tensors[f"t{round_}"] + 0.5
        part = add_component(store, tensors, part)
        assert part.delta is not None
        assert len(part.delta.layers) == round_ % DELTA_LAYERS_MAX + 1
        read_all(store, part)


def test_what_differs_nearly_everywhere_is_stored_in_full(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    base = pack(tiny_sd(0), store)
    tuned = store.open(pack(tiny_sd(1), store, base=base)).manifest
    assert all(part.delta is None for part in tuned.components)


def test_an_unchanged_pipeline_packs_to_the_same_components(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    base = pack(tiny_sd(0), store)
    assert pack(tiny_sd(0), store, base=base[:12]) == base


def test_a_single_file_is_packed_over_a_snapshot(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "store")
    base = pack(tiny_sd(0), store)
    wanted = tuned_sd(*CHANGED)
    save_file(wanted.unet.state_dict(), tmp_path / "unet.safetensors")
    digest = pack(tmp_path / "unet.safetensors", store, base=base)
    found, expected = (
        {part.name: (part.digest, part.delta) for part in store.open(each).manifest.components}
        for each in (digest, pack(wanted, store, base=base))
    )
    assert found == expected
    assert unet_of(store, digest)


def test_a_whole_checkpoint_is_packed_over_a_snapshot(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "store")
    base = pack(tiny_sd(0), store)
    wanted = tuned_sd(*CHANGED)
    save_file(original_checkpoint(wanted), tmp_path / "whole.safetensors")
    digest = pack(tmp_path / "whole.safetensors", store, base=base)
    _, delta = unet_of(store, digest)
    stored = load_file(store.delta_path(delta.layers[0].digest))
    assert {name for name in stored if not name.startswith("__pad__")} == set(CHANGED)
    with a_loader(store) as loader, loader.load(digest) as model:
        assert torch.equal(draw(model.pipeline), draw(wanted))


def test_a_base_in_another_folder_comes_along(
    tuned: tuple[SnapshotStore, str, str], tmp_path: Path
) -> None:
    other = SnapshotStore(tmp_path / "other")
    digest = pack(tuned_sd("conv_in.bias"), other, base=tuned[0].manifest_path(tuned[1]).parent)
    assert tuned[1] in other
    assert verify(other.root, digest).intact


def test_a_base_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="abcdef"):
        pack(tiny_sd(0), tmp_path / "store", base="abcdef")
    with pytest.raises(NotFound, match=r"no/such/folder.*neither a folder nor the digest"):
        pack(tiny_sd(0), tmp_path / "store", base="no/such/folder")


# ---- keeping, copying, checking ------------------------------------------------------------------


def test_gc_keeps_the_base_that_a_delta_needs(tuned: tuple[SnapshotStore, str, str]) -> None:
    store, base, digest = tuned
    store.remove(base)
    store.gc()
    assert verify(store.root, digest).intact
    with a_loader(store) as loader, loader.load(digest) as model:
        assert torch.equal(draw(model.pipeline), draw(tuned_sd(*CHANGED)))
    store.remove(digest)
    store.gc()
    assert size_of(store.root / "components") == size_of(store.root / "deltas") == 0


def test_importing_brings_base_and_delta(
    tuned: tuple[SnapshotStore, str, str], tmp_path: Path
) -> None:
    store, _, digest = tuned
    other = SnapshotStore(tmp_path / "other")
    other.import_(store.root, digest)
    assert list(other) == [digest]
    assert verify(other.root, digest).intact


def test_a_damaged_delta_is_found_by_load_and_by_verify(
    tuned: tuple[SnapshotStore, str, str],
) -> None:
    store, _, digest = tuned
    _, delta = unet_of(store, digest)
    path = store.delta_path(delta.layers[0].digest)
    flip_bit(path, delta.layers[0].data_start + 40)
    assert {finding.part for finding in verify(store.root, digest).findings} == {"unet"}
    with a_loader(store) as loader, pytest.raises(SnapshotCorrupt, match=r"component unet, block"):
        loader.load(digest)


def test_a_damaged_base_is_found_by_load_and_by_verify(
    tuned: tuple[SnapshotStore, str, str],
) -> None:
    store, _, digest = tuned
    part, delta = unet_of(store, digest)
    flip_bit(store.component_path(delta.base), part.data_start + part.data_bytes - 9000)
    findings = verify(store.root, digest).findings
    assert {finding.part for finding in findings} == {"unet"}
    assert any(str(store.component_path(delta.base)) in line.message for line in findings)
    with a_loader(store) as loader, pytest.raises(SnapshotCorrupt, match=r"component unet, block"):
        loader.load(digest)


def test_a_damaged_header_of_a_delta_is_found(tuned: tuple[SnapshotStore, str, str]) -> None:
    store, _, digest = tuned
    _, delta = unet_of(store, digest)
    flip_bit(store.delta_path(delta.layers[0].digest), 30)
    assert not verify(store.root, digest).intact
    with a_loader(store) as loader, pytest.raises(SnapshotCorrupt, match="delta"):
        loader.load(digest)


@pytest.mark.parametrize("part", ["base", "delta"])
def test_a_missing_base_or_delta_is_named(tuned: tuple[SnapshotStore, str, str], part: str) -> None:
    store, _, digest = tuned
    _, delta = unet_of(store, digest)
    gone = {
        "base": store.component_path(delta.base),
        "delta": store.delta_path(delta.layers[0].digest),
    }[part]
    gone.unlink()
    assert not verify(store.root, digest).intact
    with a_loader(store) as loader:
        with pytest.raises(SnapshotInvalid, match="is stored as a delta") as caught:
            loader.load(digest)
        assert gone.stem in caught.value.message


def test_a_delta_of_another_layout_is_refused(tuned: tuple[SnapshotStore, str, str]) -> None:
    """A manifest may claim any delta for any component; tensors must be the component's."""
    store, base, digest = tuned
    part, delta = unet_of(store, digest)
    vae = store.open(base).manifest.component("vae")
    claimed = replace(vae, digest=part.digest, delta=replace(delta, base=vae.digest))
    with pytest.raises(SnapshotInvalid, match="lacks"):
        open_stored(store, claimed)
    mixed = replace(part, delta=replace(delta, base=vae.digest))
    with pytest.raises(SnapshotInvalid, match="same layout"):
        open_stored(store, mixed)


def test_an_origin_beside_others_leaves_what_it_lacks_to_them(
    tuned: tuple[SnapshotStore, str, str],
) -> None:
    store, _, digest = tuned
    part, delta = unet_of(store, digest)
    store.delta_path(delta.layers[0].digest).unlink()
    origin = DeltaOrigin(store, alone=False)
    assert origin.open(part, lambda below: open_stored(store, below)) is None
    store.component_path(delta.base).unlink()
    assert origin.header(part) is None
