"""Prompt to picture: real tiny pipelines, real snapshots, a real stream, a real blob store."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from support.fake_scheduler import FakeScheduler
from support.studio import (
    CANCELLED,
    DISK,
    SUCCEEDED,
    VRAM,
    Studio,
)

# diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("model", ["sd", "sdxl", "flux"])
async def test_a_prompt_becomes_a_picture_in_the_blob_store(studio: Studio, model: str) -> None:
    end = await studio.draw(model, num_images=2)
    assert [a.uri for a in end.artifacts] == [
        f"artifacts/{end.request_id}/0.png",
        f"artifacts/{end.request_id}/1.png",
    ]
    for artifact in end.artifacts:
        content = studio.file(artifact)
        assert hashlib.sha256(content).hexdigest() == artifact.sha256
        assert len(content) == artifact.size_bytes
        assert artifact.content_type == "image/png"
        assert Image.open(io.BytesIO(content)).size == (artifact.width, artifact.height) == (32, 32)
    assert end.seed == 7
    assert json.loads(end.output_json)["seed"] == 7
    assert end.metered_ms > 0
    assert end.load.total_seconds > 0
    assert 0 < end.load.first_step_seconds < end.metered_ms / 1000 + 0.01
    assert end.start_tier == DISK
    assert [m.event.progress.step for m in studio.session.seen("progress")] == [1, 2]
    running = studio.session.seen("running")[0].running
    assert running.start_tier == DISK
    assert {part.name for part in running.load.components} == set(studio.packed.components(model))


async def test_the_second_request_starts_from_vram_and_moves_nothing(studio: Studio) -> None:
    cold = await studio.draw("sd")
    warm = await studio.draw("sd")
    assert warm.start_tier == VRAM
    assert {part.source for part in warm.load.components} == {VRAM}
    assert warm.load.bytes_seconds == 0
    assert [a.sha256 for a in warm.artifacts] == [a.sha256 for a in cold.artifacts]
    assert studio.worker.metric("cold_starts_total") == 1
    assert studio.worker.metric("load_seconds_count", tier="disk") == 1
    assert studio.worker.metric("load_seconds_count", tier="vram") == 1


@pytest.mark.parametrize("model", ["sd", "sdxl", "flux"])
async def test_the_same_seed_draws_the_same_bytes_and_another_seed_another_picture(
    studio: Studio, model: str
) -> None:
    first = await studio.draw(model, seed=3)
    again = await studio.draw(model, seed=3)
    other = await studio.draw(model, seed=4)
    assert first.artifacts[0].sha256 == again.artifacts[0].sha256
    assert first.artifacts[0].sha256 != other.artifacts[0].sha256


@pytest.mark.parametrize("model", ["sd", "flux"])
async def test_an_image_of_a_batch_can_be_drawn_again_alone(studio: Studio, model: str) -> None:
    batch = await studio.draw(model, seed=10, num_images=3)
    alone = await studio.draw(model, seed=12)
    difference = studio.pixels(batch.artifacts[2]) - studio.pixels(alone.artifacts[0])
    assert np.abs(difference).max() <= 1
    assert batch.artifacts[0].sha256 != batch.artifacts[2].sha256


async def test_a_request_without_a_seed_reports_the_one_that_draws_it_again(
    studio: Studio,
) -> None:
    drawn = await studio.draw("sd", seed=None)
    other = await studio.draw("sd", seed=None)
    assert drawn.seed != other.seed
    again = await studio.draw("sd", seed=drawn.seed)
    assert again.artifacts[0].sha256 == drawn.artifacts[0].sha256


async def test_size_and_format_are_the_callers(studio: Studio) -> None:
    end = await studio.draw("sd", image_size={"width": 48, "height": 32}, output_format="jpeg")
    (artifact,) = end.artifacts
    picture = Image.open(io.BytesIO(studio.file(artifact)))
    assert (picture.format, picture.size) == ("JPEG", (48, 32))
    assert (artifact.name, artifact.content_type) == ("0.jpeg", "image/jpeg")


@pytest.mark.parametrize("model", ["sd", "sdxl", "flux"])
async def test_previews_come_at_the_first_step_and_then_every_so_many(
    studio: Studio, model: str
) -> None:
    await studio.draw(model, num_inference_steps=5, preview_every=2, num_images=2)
    previews = [message.event.preview for message in studio.session.seen("preview")]
    assert [(p.step, p.image_index) for p in previews] == [
        (step, image) for step in (1, 2, 4) for image in (0, 1)
    ]
    for preview in previews:
        picture = Image.open(io.BytesIO(preview.data))
        assert picture.format == "JPEG"
        assert picture.size == (preview.width, preview.height) == (32, 32)


async def test_no_previews_unless_asked_for(studio: Studio) -> None:
    await studio.draw("sd")
    assert not studio.session.seen("preview")


async def test_a_run_is_cancelled_between_two_steps(studio: Studio) -> None:
    attempt = studio.assign("sd", num_inference_steps=500)
    await studio.session.next("progress", attempt)
    studio.session.cancel(attempt)
    end = await studio.session.finished(attempt)
    assert end.outcome == CANCELLED
    assert end.metered_ms > 0
    assert not end.artifacts
    assert len(studio.session.seen("progress", attempt)) < 500
    assert not (studio.data_dir / "blobs" / "artifacts").exists()
    # The pipeline draws the next request as if nothing had been.
    fresh = await studio.draw("sd")
    again = await studio.draw("sd")
    assert fresh.artifacts[0].sha256 == again.artifacts[0].sha256


async def test_a_picture_survives_a_broken_stream(scheduler: FakeScheduler, studio: Studio) -> None:
    attempt = studio.assign("sd", num_inference_steps=200)
    await studio.session.next("progress", attempt)
    studio.session.hang_up()
    second = await scheduler.attached()
    second.welcome()
    assert [a.attempt_id for a in second.hello.attempts] == [attempt]
    assert {line.digest for line in second.hello.residency if line.tier == VRAM} == set(
        studio.packed.components("sd").values()
    )
    end = await second.finished(attempt)
    assert end.outcome == SUCCEEDED
    assert end.artifacts[0].sha256
    assert len(second.seen("finished", attempt)) == 1
