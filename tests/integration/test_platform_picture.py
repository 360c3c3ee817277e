"""What a stranger sees first: `up`, `run`, a picture that shows the prompt, a receipt, a bill."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captions import is_held_out, parse
from measure import read, score
from quickthaw.client import Previewed, Progressed, Receipt, Request, Tier
from quickthaw.wire.errors import InvalidInput, ModelNotFound
from support.platform import Platform, quickthaw, running_platform

MODEL = "quickthaw/shapes"
PROMPTS = (
    "a red circle above a blue square",
    "a green triangle to the left of a yellow circle",
    "a purple square below an orange triangle on a black background",
    "a blue circle",
)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("platform")) as running:
        yield running


def shows(picture: bytes, prompt: str) -> bool:
    """Whether colours, shapes, relation and background are those of the prompt, by the pixels."""
    with Image.open(io.BytesIO(picture)) as image:
        return score(parse(prompt), read(np.asarray(image.convert("RGB")))).all_right


def receipt_of(request: Request) -> Receipt:
    assert request.receipt is not None
    return request.receipt


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_picture_shows_the_prompt(platform: Platform, prompt: str) -> None:
    with platform.client() as client:
        request = client.run(MODEL, {"prompt": prompt, "seed": 7})
        (artifact,) = request.artifacts
        assert shows(client.read_artifact(artifact), prompt)
        assert (artifact.width, artifact.height) == (64, 64)
        assert receipt_of(request).seed == 7


def test_a_combination_that_was_never_trained_on_is_drawn_too(platform: Platform) -> None:
    prompt = "a red circle above a yellow square"
    # Which combinations are held out is a hash's choice; this one is among them.
    assert is_held_out(parse(prompt))
    with platform.client() as client:
        request = client.run(MODEL, {"prompt": prompt, "seed": 11})
        assert shows(client.read_artifact(request.artifacts[0]), prompt)


def test_several_images_are_several_pictures_and_each_shows_the_prompt(platform: Platform) -> None:
    prompt = PROMPTS[0]
    with platform.client() as client:
        request = client.run(MODEL, {"prompt": prompt, "seed": 3, "num_images": 3})
        pictures = [client.read_artifact(artifact) for artifact in request.artifacts]
    assert len(set(pictures)) == 3
    assert all(shows(picture, prompt) for picture in pictures)


def test_progress_and_previews_arrive_while_the_picture_forms(platform: Platform) -> None:
    with platform.client() as client:
        submitted = client.submit(MODEL, {"prompt": PROMPTS[0], "seed": 7, "preview_every": 4})
        events = list(client.watch(submitted.request_id))
    steps = [event.step for event in events if isinstance(event, Progressed)]
    previews = [event for event in events if isinstance(event, Previewed)]
    assert steps == sorted(steps)
    assert steps[-1] == next(e.steps for e in events if isinstance(e, Progressed))
    assert previews
    assert previews[0].step == 1
    with Image.open(io.BytesIO(previews[-1].data)) as image:
        image.load()


def test_the_first_run_is_cold_and_says_where_its_time_went_the_next_is_warm(
    tmp_path: Path,
) -> None:
    with running_platform(tmp_path) as fresh, fresh.client() as client:
        cold, warm = (
            receipt_of(client.run(MODEL, {"prompt": PROMPTS[0], "seed": 7})) for _ in range(2)
        )
    # Read ahead while the worker's host was importing, if the disk was quick enough.
    assert cold.start_tier in {Tier.PINNED, Tier.DISK}
    assert cold.load is not None
    assert cold.load.total_seconds >= cold.load.bytes_seconds > 0
    assert cold.load.skeleton_seconds >= 0
    assert cold.load.first_step_seconds > 0
    assert 0 < cold.load.encode_seconds <= cold.load_ms / 1_000
    assert {part.source for part in cold.load.components} <= {Tier.PINNED, Tier.DISK}
    assert warm.start_tier is Tier.VRAM
    assert warm.load is not None
    assert {part.source for part in warm.load.components} == {Tier.VRAM}


def test_the_command_line_saves_the_picture_and_prints_the_receipt(
    platform: Platform, tmp_path: Path
) -> None:
    done = subprocess.run(
        quickthaw(
            *("run", "shapes", f"prompt={PROMPTS[0]}", "seed=7", "--json", "--output", tmp_path)
        ),
        env=platform.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    (file,) = tmp_path.iterdir()
    assert shows(file.read_bytes(), PROMPTS[0])
    receipt = told["receipt"]
    assert receipt["billed_ms"] == receipt["run_ms"] > 0


def test_the_same_seed_draws_the_same_picture(platform: Platform) -> None:
    with platform.client() as client:
        first, second = (
            client.run(MODEL, {"prompt": PROMPTS[0], "seed": 5}).artifacts[0].sha256
            for _ in range(2)
        )
    assert first == second


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({}, "input.prompt", "required"),
        ({"prompt": 7}, "input.prompt", "string"),
        ({"prompt": "x", "image_size": {"width": 1 << 20, "height": 64}}, "input.image_size", ""),
        ({"prompt": "x", "num_inference_steps": "many"}, "input.num_inference_steps", "integer"),
        ({"prompt": "x", "sed": 1}, "input.sed", "seed"),
        ({"prompt": "x" * 100_000}, "input.prompt", ""),
    ],
)
def test_bad_input_is_refused_by_field_before_anything_is_journalled(
    platform: Platform, given: dict[str, object], field: str, told: str
) -> None:
    with platform.client() as client, pytest.raises(InvalidInput) as refused:
        client.submit(MODEL, given)  # type: ignore[arg-type]  # wrong on purpose
    (violation,) = refused.value.violations
    assert violation.field.startswith(field)
    assert told in violation.description
    assert violation.field in str(refused.value)


def test_a_prompt_with_more_words_than_the_model_reads_fails_and_is_free(
    platform: Platform,
) -> None:
    with platform.client() as client:
        request = client.run(MODEL, {"prompt": "red " * 400}, raise_for_failure=False)
    assert request.failure is not None
    assert request.failure.reason == "INVALID_INPUT"
    assert "token" in request.failure.message
    assert receipt_of(request).billed_ms == 0


def test_an_unknown_model_is_named_with_its_neighbours(platform: Platform) -> None:
    with platform.client() as client, pytest.raises(ModelNotFound, match="quickthaw/shapes"):
        client.submit("quickthaw/shape", {"prompt": "x"})
