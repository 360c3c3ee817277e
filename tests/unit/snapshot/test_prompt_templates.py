"""What pipelines put before a prompt and take off again: the tokenizer must agree on how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import SnapshotInvalid
from support.hunyuan_models import BEFORE_PROMPT, saved_by_older, tiny_hunyuan
from support.snapshots import a_loader
from support.tiny_models import tf

TAKEN_OFF = 95
"""As the published model's tokenizer has it, and so its pipeline."""


def test_a_folder_that_calls_its_tokenizer_llamas_reads_prompts_as_its_file_says(
    tmp_path: Path,
) -> None:
    """transformers 5 would read it as one of Llama 2, without any spaces."""
    original = tiny_hunyuan()
    folder = saved_by_older(original, tmp_path / "folder")
    misread = tf.LlamaTokenizerFast.from_pretrained(folder / "tokenizer")
    expected = original.tokenizer(BEFORE_PROMPT).input_ids
    assert misread(BEFORE_PROMPT).input_ids != expected
    store = SnapshotStore(tmp_path / "store")
    digest = pack(folder, store)
    with a_loader(store) as loader, loader.load(digest) as loaded:
        tokenizer = loaded.pipeline.tokenizer
        assert tokenizer(BEFORE_PROMPT).input_ids == expected
        assert len(expected) == TAKEN_OFF
        assert tokenizer.padding_side == "right"


def test_a_tokenizer_that_reads_the_template_otherwise_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_hunyuan()
    pipeline.tokenizer.add_tokens([" camera angles"])
    with pytest.raises(SnapshotInvalid, match=f"as 94 tokens, of which .* off {TAKEN_OFF}"):
        pack(pipeline, tmp_path)


def test_a_tokenizer_that_pads_in_front_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_hunyuan()
    pipeline.tokenizer.padding_side = "left"
    with pytest.raises(SnapshotInvalid, match="pads prompts on the left"):
        pack(pipeline, tmp_path)


@pytest.mark.parametrize("told", [True, False])
def test_only_a_model_that_is_not_told_how_closely_sees_a_negative_prompt(
    told: bool, tmp_path: Path
) -> None:
    store = SnapshotStore(tmp_path)
    manifest = store.open(pack(tiny_hunyuan(guidance_embeds=told), store)).manifest
    schema: Any = manifest.input_schema
    assert ("negative_prompt" in schema["properties"]) == (not told)
    assert manifest.defaults["guidance_scale"] == 6.0
