"""Families that begin with pictures, on a worker: the same picture as diffusers' own pipeline."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.worker.families import flux_kontext, qwen_image_edit
from quickthaw.worker.video_files import encode
from support import picture_models
from support.fake_scheduler import FakeScheduler
from support.language_models import seen_small
from support.picture_models import BUILDERS, FRAMES, SIDE, make
from support.pixels import data_uri, levels
from support.studio import Packed, Studio

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
STILLS = (
    "flux_kontext",
    "flux_fill",
    "sd_inpaint",
    "sdxl_inpaint",
    "qwen_image_edit",
    "qwen_image_edit-first",
)
FILMS = tuple(name for name in BUILDERS if name not in STILLS)
MASKED = ("flux_fill", "sd_inpaint", "sdxl_inpaint")
LED = ("wan_i2v-to-last", "wan_i2v-experts", "ltx-condition")


@pytest.fixture
async def scheduler() -> AsyncIterator[FakeScheduler]:
    async with FakeScheduler() as scheduler:
        yield scheduler


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    seen_small(monkeypatch)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("packed")
    store = SnapshotStore(folder)
    return Packed(folder, {name: pack(build(0), store) for name, build in BUILDERS.items()})


def asked(name: str, **given: object) -> dict[str, Any]:
    """The request that `picture_models.make` is the answer to."""
    size = {"width": SIDE, "height": SIDE}
    words: dict[str, object] = {
        "prompt": picture_models.PROMPT,
        "image_url": data_uri(picture_models.first_picture()),
        "image_size": size,
        "guidance_scale": 4.0,
    }
    if name in MASKED:
        words["mask_url"] = data_uri(picture_models.half_mask())
    if name == "qwen_image_edit":
        words["image_urls"] = [data_uri(picture_models.last_picture())]
    if name in LED:
        words["end_image_url"] = data_uri(picture_models.last_picture())
    if name in FILMS:
        words |= {"num_frames": FRAMES, "fps": 6}
    return {**words, **given}


def shown(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content), "r") as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


@pytest.mark.parametrize("name", STILLS)
async def test_a_picture_is_what_the_original_pipeline_makes_of_it(
    studio: Studio, name: str
) -> None:
    end = await studio.draw(name, **asked(name))
    expected = levels(make(name, BUILDERS[name](0))[0])
    assert np.array_equal(studio.pixels(end.artifacts[0]), expected)


@pytest.mark.parametrize("name", FILMS)
async def test_a_video_is_what_the_original_pipeline_makes_of_its_first_picture(
    studio: Studio, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[np.ndarray] = []

    def watched(pixels: Any, *rest: Any) -> bytes:
        frames.extend(pixels)
        return encode(iter(frames), *rest)

    monkeypatch.setattr("quickthaw.worker.filming.encode", watched)
    end = await studio.draw(name, **asked(name))
    wanted = make(name, BUILDERS[name](0)).permute(0, 2, 3, 1)
    expected = (wanted.float() * 255).round().clamp(0, 255).numpy().astype(np.uint8)
    assert np.array_equal(np.stack(frames), expected)
    (artifact,) = end.artifacts
    assert artifact.content_type == "video/mp4"
    assert shown(studio.file(artifact)).shape == (FRAMES, SIDE, SIDE, 3)


@pytest.mark.parametrize("name", BUILDERS)
async def test_previews_come_from_the_first_step_on(studio: Studio, name: str) -> None:
    await studio.draw(name, **asked(name, preview_every=1, num_inference_steps=3))
    previews = [message.event.preview for message in studio.session.seen("preview")]
    assert [each.step for each in previews] == [1, 2, 3][: len(previews)]
    assert previews[0].step == 1
    kind = "image/webp" if name in FILMS else "image/jpeg"
    for each in previews:
        assert each.content_type == kind
        with Image.open(io.BytesIO(each.data)) as picture:
            assert max(picture.size) <= 256


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("flux_kontext", "image_url"),
        ("flux_fill", "mask_url"),
        ("qwen_image_edit", "image_url"),
        ("sd_inpaint", "mask_url"),
        ("sdxl_inpaint", "image_url"),
        ("wan_i2v", "image_url"),
        ("wan_i2v-to-last", "end_image_url"),
        ("hunyuan_video_i2v", "image_url"),
    ],
)
async def test_a_request_without_a_picture_that_it_needs_is_refused_by_name(
    studio: Studio, name: str, field: str
) -> None:
    failure = await studio.fail(name, **asked(name, **{field: ""}))
    assert failure.reason == "INVALID_INPUT"
    assert field in failure.message
    assert not studio.session.seen("progress")


@pytest.mark.parametrize("name", ["wan-both", "ltx", "ltx-condition"])
async def test_models_of_both_kinds_also_make_videos_from_a_text_alone(
    studio: Studio, name: str
) -> None:
    given = {**asked(name), "image_url": None, "end_image_url": None}
    alone = await studio.draw(name, **given)
    begun = await studio.draw(name, **asked(name))
    again = await studio.draw(name, **given)
    assert alone.artifacts[0].sha256 == again.artifacts[0].sha256
    assert alone.artifacts[0].sha256 != begun.artifacts[0].sha256


async def test_what_a_video_ends_with_needs_what_it_begins_with(studio: Studio) -> None:
    given = {**asked("ltx-condition"), "image_url": None}
    failure = await studio.fail("ltx-condition", **given)
    assert failure.violations[0].field == "input.end_image_url"
    assert "needs an image_url" in failure.message


async def test_kontext_keeps_the_shape_of_the_picture_where_no_size_is_given(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flux_kontext, "SIDE_OF_LATENTS", 16)
    wide = Image.linear_gradient("L").resize((64, 16)).convert("RGB")
    end = await studio.draw(
        "flux_kontext", **asked("flux_kontext", image_url=data_uri(wide), image_size=None)
    )
    (artifact,) = end.artifacts
    assert (artifact.width, artifact.height) == (64, 16)


async def test_an_edit_without_a_size_has_the_shape_of_its_first_picture(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen_image_edit, "SIDE", 32)
    wide = Image.linear_gradient("L").resize((48, 24)).convert("RGB")
    given = asked("qwen_image_edit", image_url=data_uri(wide), image_size=None, preview_every=1)
    (artifact,) = (await studio.draw("qwen_image_edit", **given)).artifacts
    assert (artifact.width, artifact.height) == (40, 16)


async def test_a_picture_too_long_to_be_seen_is_refused_by_name(studio: Studio) -> None:
    long = Image.new("RGB", (1010, 10))
    failure = await studio.fail(
        "qwen_image_edit", **asked("qwen_image_edit", image_url=data_uri(long))
    )
    assert failure.violations[0].field == "input.image_url"
    assert "1010 x 10 pixels" in failure.message


async def test_several_pictures_of_one_request_differ_and_can_be_drawn_alone(
    studio: Studio,
) -> None:
    both = await studio.draw("flux_kontext", **asked("flux_kontext", num_images=2))
    alone = await studio.draw("flux_kontext", **asked("flux_kontext", seed=8))
    first, second = (studio.pixels(each) for each in both.artifacts)
    assert not np.array_equal(first, second)
    assert np.abs(second - studio.pixels(alone.artifacts[0])).max() <= 1
    assert json.loads(both.output_json)["seed"] == 7
