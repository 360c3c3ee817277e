"""Stable Diffusion 3 on a worker: from a text, over a picture, within a mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.other_models import tiny_sd3
from support.pixels import data_uri
from support.studio import PROMPT, Packed, Studio
from support.tiny_models import TEXT_TOKENS


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("packed")
    return Packed(folder, {"sd3": pack(tiny_sd3(), SnapshotStore(folder))})


def a_picture(colour: str) -> str:
    return data_uri(Image.new("RGB", (32, 32), colour))


async def test_a_prompt_becomes_the_picture_that_the_pipeline_draws(studio: Studio) -> None:
    end = await studio.draw("sd3", preview_every=1)
    wanted = tiny_sd3()(
        PROMPT,
        negative_prompt="",
        width=32,
        height=32,
        num_inference_steps=2,
        guidance_scale=7.0,
        max_sequence_length=TEXT_TOKENS,
        generator=[torch.Generator().manual_seed(7)],
        output_type="np",
    ).images[0]
    assert np.array_equal(studio.pixels(end.artifacts[0]), (wanted * 255).round())
    steps = [message.event.preview.step for message in studio.session.seen("preview")]
    assert steps == [1, 2]


async def test_a_picture_and_a_mask_shape_what_is_drawn(studio: Studio) -> None:
    given = {"num_inference_steps": 4, "strength": 0.5}
    digests = [
        (await studio.draw("sd3", **{**given, **pictures})).artifacts[0].sha256
        for pictures in (
            {},
            {"image_url": a_picture("red")},
            {"image_url": a_picture("blue")},
            {"image_url": a_picture("red"), "mask_url": a_picture("white")},
            {"image_url": a_picture("red"), "mask_url": a_picture("black")},
        )
    ]
    assert len(set(digests)) == len(digests)


async def test_a_prompt_that_is_cut_off_is_refused_by_what_reads_all_of_it(studio: Studio) -> None:
    failure = await studio.fail("sd3", prompt="red circle " * 20)
    assert "text_encoder_3 reads at most 16" in failure.message
