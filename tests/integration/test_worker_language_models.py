"""Families whose prompts one large model reads, on a worker: diffusers' own pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.language_models import BUILDERS, PROMPT, SIDE, make
from support.pixels import data_uri, levels
from support.studio import Packed, Studio

pytestmark = [
    # diffusers' own business, both of them.
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
ASKED: dict[str, object] = {
    "prompt": PROMPT,
    "image_size": {"width": SIDE, "height": SIDE},
    "guidance_scale": 4.0,
    "negative_prompt": "a hat",
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("packed")
    store = SnapshotStore(folder)
    return Packed(folder, {name: pack(build(0), store) for name, build in BUILDERS.items()})


def a_picture(color: str, *, half: bool = False) -> str:
    """`half`: black on the right."""
    picture = Image.new("RGB", (SIDE, SIDE), color)
    picture.paste("black", (SIDE // 2 if half else SIDE, 0, SIDE, SIDE))
    return data_uri(picture)


@pytest.mark.parametrize("family", BUILDERS)
async def test_pictures_are_those_of_the_original_pipeline(studio: Studio, family: str) -> None:
    end = await studio.draw(family, **ASKED, num_images=2)
    expected = levels(make(BUILDERS[family](0), family, seeds=(7, 8), negative="a hat"))
    assert [artifact.content_type for artifact in end.artifacts] == ["image/png"] * 2
    for artifact, picture in zip(end.artifacts, expected, strict=True):
        assert np.array_equal(studio.pixels(artifact), picture)


@pytest.mark.parametrize(
    ("family", "unguided"), [("chroma", 1.0), ("qwen_image", 1.0), ("z_image", 0.0)]
)
async def test_without_guidance_nothing_is_steered_away_from(
    studio: Studio, family: str, unguided: float
) -> None:
    given = {**ASKED, "guidance_scale": unguided}
    ends = [
        await studio.draw(family, **{**given, "negative_prompt": text}) for text in ("", "a hat")
    ]
    assert ends[0].artifacts[0].sha256 == ends[1].artifacts[0].sha256


@pytest.mark.parametrize("family", BUILDERS)
async def test_previews_come_from_the_first_step_on(studio: Studio, family: str) -> None:
    await studio.draw(family, **ASKED, preview_every=1)
    previews = [message.event.preview for message in studio.session.seen("preview")]
    assert [each.step for each in previews] == [1, 2]
    with Image.open(io.BytesIO(previews[0].data)) as picture:
        assert picture.size == (SIDE, SIDE)


@pytest.mark.parametrize("family", BUILDERS)
async def test_a_picture_shapes_what_is_drawn_and_a_mask_where(studio: Studio, family: str) -> None:
    given = {**ASKED, "strength": 0.5, "num_inference_steps": 4}
    asked: list[dict[str, object]] = [{"image_url": a_picture(each)} for each in ("red", "blue")]
    if family != "chroma":
        asked.append({**asked[0], "mask_url": a_picture("white", half=True)})
    ends = [await studio.draw(family, **given, **each) for each in asked]
    assert len({end.artifacts[0].sha256 for end in ends}) == len(asked)


@pytest.mark.parametrize("family", ["qwen_image", "z_image"])
async def test_a_prompt_beyond_what_is_read_is_refused_with_its_length(
    studio: Studio, family: str
) -> None:
    failure = await studio.fail(family, **{**ASKED, "prompt": "a" * 1100})
    assert failure.reason == "INVALID_INPUT"
    assert "1100 tokens long" in failure.message
    assert (await studio.draw(family, **{**ASKED, "prompt": "a" * 450})).artifacts
