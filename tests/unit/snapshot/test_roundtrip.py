"""What comes out of a snapshot is what went in: every bit of every tensor, every picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.snapshots import BUILDERS, a_loader, draw, tensors_of


def modules_of(pipeline: Any) -> dict[str, torch.nn.Module]:
    return {
        name: part
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }


def assert_same_bits(pipeline: Any, original: Any) -> None:
    wanted = modules_of(original)
    assert modules_of(pipeline).keys() == wanted.keys()
    for name, module in modules_of(pipeline).items():
        assert type(module) is type(wanted[name])
        assert not module.training
        ours, theirs = tensors_of(module), tensors_of(wanted[name])
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            assert ours[key].dtype == tensor.dtype, (name, key)
            assert torch.equal(ours[key], tensor), (name, key)


@pytest.mark.parametrize("family", BUILDERS)
def test_a_loaded_pipeline_draws_the_picture_of_the_original(
    family: str, store: SnapshotStore, digests: dict[str, str]
) -> None:
    original = BUILDERS[family](0)
    with a_loader(store) as loader, loader.load(digests[family]) as loaded:
        assert isinstance(loaded.pipeline, type(original))
        assert type(loaded.pipeline).__name__ == type(original).__name__
        assert_same_bits(loaded.pipeline, original)
        picture = draw(loaded.pipeline)
        assert torch.isfinite(picture).all()
        assert torch.equal(picture, draw(original))
        assert not torch.equal(picture, draw(BUILDERS[family](1)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", BUILDERS)
def test_half_precision_folders_load_as_from_pretrained_does(
    family: str, dtype: str, tmp_path: Path
) -> None:
    original = BUILDERS[family](0)
    kind = getattr(torch, dtype)
    torch.nn.Module.to(original.vae, dtype=torch.bfloat16)  # mixed, as with SDXL's VAE
    for name, module in modules_of(original).items():
        if name != "vae":
            module.to(kind)
    original.save_pretrained(tmp_path / "folder")
    reference = type(original).from_pretrained(
        tmp_path / "folder", dtype={"vae": torch.bfloat16, "default": kind}
    )
    digest = pack(tmp_path / "folder", tmp_path / "store")
    store = SnapshotStore(tmp_path / "store")
    with a_loader(store) as loader, loader.load(digest) as loaded:
        assert_same_bits(loaded.pipeline, reference)
        if family == "flux" and dtype == "float16":
            part = store.open(digest).manifest.component("text_encoder_2")
            assert part.dtypes == ("F16", "F32"), "T5 keeps its wo in float32"


def test_a_picture_in_bfloat16_is_that_of_the_original(tmp_path: Path) -> None:
    original = BUILDERS["flux"](0).to(torch.bfloat16)
    digest = pack(original, tmp_path)
    with a_loader(SnapshotStore(tmp_path)) as loader, loader.load(digest) as loaded:
        assert torch.equal(draw(loaded.pipeline), draw(original))


def test_non_persistent_buffers_come_from_the_file(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    part = store.open(digests["sd"]).manifest.component("text_encoder")
    stored = load_file(store.component_path(part.digest))
    ids = next(name for name in stored if name.endswith("position_ids"))
    assert ids not in BUILDERS["sd"](0).text_encoder.state_dict()
    with a_loader(store) as loader, loader.load(digests["sd"]) as loaded:
        buffers = dict(loaded.pipeline.text_encoder.named_buffers())
        assert torch.equal(buffers[ids], stored[ids])


def test_tied_weights_are_stored_once_and_stay_one_parameter(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    part = store.open(digests["flux"]).manifest.component("text_encoder_2")
    assert part.aliases == {"encoder.embed_tokens.weight": "shared.weight"}
    with a_loader(store) as loader, loader.load(digests["flux"]) as loaded:
        encoder = loaded.pipeline.text_encoder_2
        assert encoder.shared.weight is encoder.encoder.embed_tokens.weight


def test_no_tensor_is_left_on_meta_or_wants_gradients(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_loader(store) as loader, loader.load(digests["sdxl"]) as loaded:
        for module in modules_of(loaded.pipeline).values():
            for tensor in tensors_of(module).values():
                assert not tensor.is_meta
                assert not tensor.requires_grad
                assert tensor.data_ptr() % 256 == 0


def test_canonical_layout_does_not_depend_on_the_weights(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    for family, build in BUILDERS.items():
        one, two = (store.open(pack(build(seed), store)).manifest for seed in (1, 2))
        for left, right in zip(one.components, two.components, strict=True):
            assert left.header_digest == right.header_digest, family
            assert left.digest != right.digest, family


def test_packing_twice_gives_the_same_snapshot(
    store: SnapshotStore, digests: dict[str, str], tmp_path: Path
) -> None:
    assert pack(BUILDERS["sdxl"](0), tmp_path) == digests["sdxl"]


def test_other_readers_open_a_component(store: SnapshotStore, digests: dict[str, str]) -> None:
    original = BUILDERS["sd"](0).unet.state_dict()
    part = store.open(digests["sd"]).manifest.component("unet")
    stored = load_file(store.component_path(part.digest))
    for name, tensor in original.items():
        assert torch.equal(stored[name], tensor)
    assert all(name.startswith("__pad__") for name in stored.keys() - original.keys())
