"""Flux 2 on a worker: diffusers' own pictures, from texts and after pictures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.worker.families import picture_adapter
from quickthaw.worker.inputs import image_input
from support.flux2_models import BUILDERS, PROMPT, SIDE, make, reference, tiny_flux2, tiny_klein
from support.pixels import data_uri, levels
from support.studio import Packed, Studio

SIZE = {"width": SIDE, "height": SIDE}
ASKED: dict[str, object] = {"prompt": PROMPT, "image_size": SIZE, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("packed")
    store = SnapshotStore(folder)
    return Packed(folder, {name: pack(build(0), store) for name, build in BUILDERS.items()})


@pytest.mark.parametrize("family", BUILDERS)
async def test_pictures_are_those_of_the_original_pipeline(studio: Studio, family: str) -> None:
    end = await studio.draw(family, **ASKED, num_images=2)
    expected = levels(make(BUILDERS[family](0), seeds=(7, 8)))
    for artifact, picture in zip(end.artifacts, expected, strict=True):
        assert np.array_equal(studio.pixels(artifact), picture)


async def test_a_picture_is_looked_at_in_its_own_shape(studio: Studio) -> None:
    end = await studio.draw("flux2", **ASKED, image_url=data_uri(reference()))
    (expected,) = levels(make(tiny_flux2(), image=reference()))
    assert np.array_equal(studio.pixels(end.artifacts[0]), expected)


async def test_several_pictures_are_looked_at_in_their_order(studio: Studio) -> None:
    seen = [reference(), reference().rotate(90, expand=True)]
    given = {"image_url": data_uri(seen[0]), "image_urls": [data_uri(seen[1])]}
    (expected,) = levels(make(tiny_klein(), image=seen))
    for asked in (given, {"image_urls": [data_uri(each) for each in seen]}):
        end = await studio.draw("flux2_klein", **ASKED, **asked)
        assert np.array_equal(studio.pixels(end.artifacts[0]), expected)


async def test_a_picture_too_small_to_be_looked_at_is_refused_by_name(studio: Studio) -> None:
    failure = await studio.fail("flux2", **ASKED, image_url=data_uri(reference().resize((80, 48))))
    assert failure.violations[0].field == "input.image_url"
    assert "80 x 48 pixels" in failure.message


async def test_several_pictures_are_bounded_together(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quickthaw.worker.pictures.PIXELS_MAX", 3 * 96 * 64 - 1)
    pictures = [data_uri(reference())] * 3
    failure = await studio.fail("flux2", **ASKED, image_urls=pictures)
    assert failure.violations[0].field == "input.image_urls"
    assert (await studio.draw("flux2", **ASKED, image_urls=pictures[:2])).artifacts


async def test_previews_come_from_the_first_step_on(studio: Studio) -> None:
    size = {"width": 2 * SIDE, "height": SIDE}
    await studio.draw("flux2", **{**ASKED, "image_size": size}, preview_every=1)
    previews = [message.event.preview for message in studio.session.seen("preview")]
    assert [each.step for each in previews] == [1, 2]
    with Image.open(io.BytesIO(previews[0].data)) as picture:
        assert picture.size == (2 * SIDE, SIDE)


@pytest.mark.parametrize(("family", "framing"), [("flux2", 173), ("flux2_klein", 38)])
async def test_a_prompt_may_be_as_long_as_its_frame_leaves_room_for(
    studio: Studio, family: str, framing: int
) -> None:
    longest = 512 - framing
    assert (await studio.draw(family, **{**ASKED, "prompt": "a" * longest})).artifacts
    failure = await studio.fail(family, **{**ASKED, "prompt": "a" * (longest + 1)})
    assert failure.reason == "INVALID_INPUT"
    assert f"{longest + 1} tokens long" in failure.message


def test_previews_are_of_the_latents_that_are_decoded() -> None:
    tokens: list[torch.Tensor] = []

    def watch(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tokens.append(tensors["latents"])
        return {}

    pipe = tiny_klein()
    size = {"height": SIDE, "width": 2 * SIDE}
    asked = {"prompt": PROMPT, "num_inference_steps": 1, **size}
    decoded = pipe(**asked, callback_on_step_end=watch, output_type="latent").images
    request = image_input({**asked, "image_size": size, "guidance_scale": 1.0})
    seen = picture_adapter("flux2_klein").latent_pictures(pipe, tokens[-1], request)
    assert torch.equal(seen, decoded)
