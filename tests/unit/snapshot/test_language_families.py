"""Families whose prompts one large model reads: what comes out of a snapshot is what went in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.computed import compute_again
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import SnapshotInvalid
from support.language_models import (
    BUILDERS,
    make,
    tiny_qwen_edit,
    tiny_qwen_image,
    tiny_z_image,
)
from support.snapshots import a_loader

pytestmark = [
    # diffusers' own business, both of them.
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize("family", BUILDERS)
def test_a_loaded_pipeline_makes_what_the_original_makes(family: str, tmp_path: Path) -> None:
    original = BUILDERS[family](0)
    store = SnapshotStore(tmp_path)
    with a_loader(store) as loader, loader.load(pack(original, store)) as loaded:
        assert loaded.manifest.family == family
        assert loaded.manifest.preview is not None
        made = make(loaded.pipeline, family)
    assert torch.isfinite(made).all()
    assert torch.equal(made, make(original, family))
    assert not torch.equal(made, make(BUILDERS[family](1), family))


@pytest.mark.parametrize("family", BUILDERS)
def test_a_folder_packs_to_the_snapshot_of_its_pipeline(family: str, tmp_path: Path) -> None:
    original = BUILDERS[family](0)
    original.save_pretrained(tmp_path / "folder")
    store = SnapshotStore(tmp_path / "store")
    packed, live = (
        store.open(pack(each, store)).manifest for each in (tmp_path / "folder", original)
    )
    assert packed.components == live.components
    assert packed.schedulers == live.schedulers
    assert packed.input_schema == live.input_schema


def test_a_template_in_other_words_is_packed_and_one_that_says_other_things_refused(
    tmp_path: Path,
) -> None:
    store = SnapshotStore(tmp_path)
    assert pack(tiny_z_image(), store)
    other = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(SnapshotInvalid, match="chat template frames a prompt otherwise"):
        pack(tiny_z_image(chat_template=other), store)


def test_what_a_model_brings_as_a_template_is_never_run(tmp_path: Path) -> None:
    """A template is a program, and snapshots come from strangers."""
    store = SnapshotStore(tmp_path)
    original = tiny_z_image()
    with a_loader(store) as loader, loader.load(pack(original, store)) as loaded:
        template = loaded.pipeline.tokenizer.chat_template
        (processor,) = loaded.manifest.processors
    assert template != original.tokenizer.chat_template
    assert "chat_template.jinja" not in processor.files


def test_rotations_without_measure_are_refused_before_they_are_made() -> None:
    transformer = tiny_qwen_image().transformer
    transformer.pos_embed.axes_dim = [1 << 30, 8, 8]
    with pytest.raises(SnapshotInvalid, match="rotations"):
        compute_again([("pos_embed", transformer.pos_embed)], "component transformer")


def test_a_processor_is_packed_from_the_files_that_it_was_published_with(tmp_path: Path) -> None:
    """transformers writes others now, and reads the whole of it with torchvision only."""
    original = tiny_qwen_edit()
    original.save_pretrained(folder := tmp_path / "folder")
    written = folder / "processor" / "processor_config.json"
    settings = json.loads(written.read_text())["image_processor"]
    settings |= {"min_pixels": 3136, "max_pixels": 12_845_056}
    (folder / "processor" / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "processor" / "video_preprocessor_config.json").write_text("{}")
    written.unlink()
    store = SnapshotStore(tmp_path / "store")
    with a_loader(store) as loader, loader.load(pack(folder, store)) as loaded:
        sees = loaded.pipeline.processor.image_processor
        assert sees.size == {"shortest_edge": 3136, "longest_edge": 12_845_056}
        assert sees.patch_size == original.processor.image_processor.patch_size
