"""Families that begin with pictures: what comes out of their snapshots is what went in."""

from __future__ import annotations

from pathlib import Path

import jsonschema_rs
import pytest
import torch

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.language_models import seen_small
from support.picture_models import BUILDERS, make
from support.snapshots import a_loader

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PICTURE = {"image_url": "https://example.org/a.png"}
MASKED = {**PICTURE, "mask_url": "https://example.org/b.png"}
SEVERAL = {**PICTURE, "image_urls": ["https://example.org/b.png"]}
LED = {**PICTURE, "end_image_url": "https://example.org/b.png"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    seen_small(monkeypatch)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_loaded_pipeline_makes_of_a_picture_what_the_original_makes(
    name: str, tmp_path: Path
) -> None:
    original = BUILDERS[name](0)
    store = SnapshotStore(tmp_path)
    with a_loader(store) as loader, loader.load(pack(original, store)) as loaded:
        assert loaded.manifest.family == name.partition("-")[0]
        made = make(name, loaded.pipeline)
    assert torch.isfinite(made).all()
    assert torch.equal(made, make(name, original))
    assert not torch.equal(made, make(name, BUILDERS[name](1)))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_folder_packs_to_the_snapshot_of_its_pipeline(name: str, tmp_path: Path) -> None:
    original = BUILDERS[name](0)
    original.save_pretrained(tmp_path / "folder")
    store = SnapshotStore(tmp_path / "store")
    packed, live = (
        store.open(pack(each, store)).manifest for each in (tmp_path / "folder", original)
    )
    assert packed.components == live.components
    assert packed.pipeline_class == live.pipeline_class
    assert packed.pipeline_arguments == live.pipeline_arguments
    assert packed.input_schema == live.input_schema


@pytest.mark.parametrize(
    ("name", "least", "refused"),
    [
        ("flux_kontext", {"prompt": "a", **PICTURE}, {"prompt": "a"}),
        ("flux_fill", MASKED, {"prompt": "a", **PICTURE}),
        ("sd_inpaint", {"prompt": "a", **MASKED}, {"prompt": "a", **PICTURE}),
        ("sdxl_inpaint", {"prompt": "a", **MASKED}, {"prompt": "a", **PICTURE}),
        ("qwen_image_edit", {"prompt": "a", **SEVERAL}, {"prompt": "a"}),
        ("qwen_image_edit-first", {"prompt": "a", **PICTURE}, {"prompt": "a", **SEVERAL}),
        ("wan_i2v", {"prompt": "a", **PICTURE}, {"prompt": "a", **LED}),
        ("wan_i2v-to-last", {"prompt": "a", **LED}, {"prompt": "a", **PICTURE}),
        ("wan_i2v-experts", {"prompt": "a", **LED}, {"prompt": "a", "image_url": ""}),
        ("wan-both", {"prompt": "a", **PICTURE}, {"prompt": "a", **LED}),
        ("ltx", {"prompt": "a", **PICTURE}, {"prompt": "a", **LED}),
        ("ltx-condition", {"prompt": "a", **LED}, LED),
        (
            "hunyuan_video_i2v",
            {"prompt": "a", **PICTURE},
            {"prompt": "a", "negative_prompt": "b", **PICTURE},
        ),
        (
            "hunyuan_video_i2v-first",
            {"prompt": "a", "negative_prompt": "b", **PICTURE},
            {"prompt": "a"},
        ),
    ],
)
def test_the_schema_says_which_pictures_a_model_must_have_and_may(
    name: str, least: dict[str, object], refused: dict[str, object], tmp_path: Path
) -> None:
    store = SnapshotStore(tmp_path)
    manifest = store.open(pack(BUILDERS[name](0), store)).manifest
    check = jsonschema_rs.validator_for(dict(manifest.input_schema))
    assert check.is_valid(least)
    assert check.is_valid({**manifest.defaults, **least})
    assert not check.is_valid(refused)
    assert not check.is_valid({**least, "surprise": 1})
    assert manifest.preview is not None


def test_the_small_model_of_wans_second_release_has_sizes_and_times_of_its_own(
    tmp_path: Path,
) -> None:
    store = SnapshotStore(tmp_path)
    manifest = store.open(pack(BUILDERS["wan-both"](0), store)).manifest
    assert manifest.defaults["image_size"] == {"width": 1280, "height": 704}
    assert (manifest.defaults["num_frames"], manifest.defaults["fps"]) == (121, 24)
