"""Flux 2: what comes out of a snapshot is what went in, and reads prompts as it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import torch

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import SnapshotInvalid
from support.flux2_models import BUILDERS, PROMPT, make, reference, tiny_flux2, tiny_klein
from support.language_models import tiny_z_image
from support.snapshots import a_loader

OTHER_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.mark.parametrize("family", BUILDERS)
def test_a_loaded_pipeline_makes_what_the_original_makes(family: str, tmp_path: Path) -> None:
    original = BUILDERS[family](0)
    store = SnapshotStore(tmp_path)
    with a_loader(store) as loader, loader.load(pack(original, store)) as loaded:
        assert loaded.manifest.family == family
        assert loaded.manifest.preview is not None
        made = make(loaded.pipeline)
        changed = make(loaded.pipeline, image=reference())
    assert torch.isfinite(made).all()
    assert torch.equal(made, make(original))
    assert torch.equal(changed, make(original, image=reference()))
    assert not torch.equal(made, changed)
    assert not torch.equal(made, make(BUILDERS[family](1)))


def assert_packs_alike(folder: Path, original: Any, store: SnapshotStore) -> None:
    packed, live = (store.open(pack(each, store)).manifest for each in (folder, original))
    assert packed.components == live.components
    assert packed.schedulers == live.schedulers
    assert packed.pipeline_arguments == live.pipeline_arguments
    assert packed.input_schema == live.input_schema
    (before,), (after,) = live.processors, packed.processors
    assert after.class_path == before.class_path
    assert after.files["tokenizer.json"] == before.files["tokenizer.json"]


@pytest.mark.parametrize("family", BUILDERS)
def test_a_folder_packs_to_the_snapshot_of_its_pipeline(family: str, tmp_path: Path) -> None:
    original = BUILDERS[family](0)
    original.save_pretrained(tmp_path / "folder")
    assert_packs_alike(tmp_path / "folder", original, SnapshotStore(tmp_path / "store"))


def test_a_processor_that_could_look_at_pictures_is_packed_as_its_tokenizer(
    tmp_path: Path,
) -> None:
    """As Flux 2 was published; transformers reads the whole of it with torchvision only."""
    original = tiny_flux2()
    folder = tmp_path / "folder"
    original.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    looks = {"processor_class": "PixtralProcessor", "image_processor_type": "PixtralImageProcessor"}
    (folder / "tokenizer" / "processor_config.json").write_text(json.dumps(looks))
    assert_packs_alike(folder, original, SnapshotStore(tmp_path / "store"))


@pytest.mark.parametrize("family", BUILDERS)
def test_a_template_that_frames_prompts_otherwise_is_refused(family: str, tmp_path: Path) -> None:
    original: Any = BUILDERS[family](0)
    original.tokenizer.chat_template = OTHER_TEMPLATE
    with pytest.raises(SnapshotInvalid, match="chat template frames a prompt otherwise"):
        pack(original, tmp_path)


def test_models_that_share_a_tokenizer_frame_prompts_each_in_its_own_way(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    originals = tiny_klein(), tiny_z_image()
    klein, z_image = (pack(each, store) for each in originals)
    (one,), (other,) = (store.open(each).manifest.processors for each in (klein, z_image))
    assert one.files == other.files
    with a_loader(store) as loader, loader.load(klein) as first, loader.load(z_image) as second:
        drawn = make(first.pipeline)
        read = [
            each.encode_prompt(PROMPT, device=torch.device("cpu"))[0][0]
            for each in (originals[1], second.pipeline)
        ]
    assert torch.equal(drawn, make(originals[0]))
    assert torch.equal(*read)


@pytest.mark.parametrize(("distilled", "steps", "guidance"), [(True, 4, 1.0), (False, 50, 4.0)])
def test_klein_takes_as_many_steps_as_it_was_trained_for(
    distilled: bool, steps: int, guidance: float, tmp_path: Path
) -> None:
    store = SnapshotStore(tmp_path)
    manifest = store.open(pack(tiny_klein(distilled=distilled), store)).manifest
    assert manifest.pipeline_arguments == {"is_distilled": distilled}
    defaults = manifest.defaults
    assert (defaults["num_inference_steps"], defaults["guidance_scale"]) == (steps, guidance)
    assert defaults["image_size"] == {"width": 1024, "height": 1024}


def test_a_request_needs_a_prompt_and_may_have_pictures(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    manifest = store.open(pack(tiny_flux2(), store)).manifest
    check = jsonschema_rs.validator_for(dict(manifest.input_schema))
    assert check.is_valid({**manifest.defaults, "prompt": "a"})
    assert check.is_valid({"prompt": "a", "image_url": "https://example.org/a.png"})
    for refused in ({}, {"prompt": "a", "negative_prompt": "b"}, {"prompt": "a", "strength": 1}):
        assert not check.is_valid(refused)
