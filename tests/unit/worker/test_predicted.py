"""What a preview shows: after the last step, what the steps came to, in every family."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from quickthaw.worker.own_pipeline import own_pipeline
from quickthaw.worker.previews import PreviewPainter, StepRecorder
from support.hunyuan_models import tiny_hunyuan
from support.other_models import tiny_ltx, tiny_sd3, tiny_svd, tiny_wan
from support.tiny_models import TEXT_TOKENS, tiny_flux, tiny_sd, tiny_sdxl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

df: Any = diffusers
SMALL = {"width": 32, "height": 32, "num_inference_steps": 4}
FILM = {**SMALL, "num_frames": 9}
WORDS = {"prompt": "a red circle"}
CALLS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd": (tiny_sd, {**SMALL, **WORDS}),
    "sdxl": (tiny_sdxl, {**SMALL, **WORDS}),
    "flux": (tiny_flux, {**SMALL, **WORDS, "max_sequence_length": TEXT_TOKENS}),
    "sd3": (tiny_sd3, {**SMALL, **WORDS, "max_sequence_length": TEXT_TOKENS}),
    "svd": (tiny_svd, {**FILM, "image": Image.new("RGB", (32, 32), "red")}),
    "wan": (tiny_wan, {**FILM, **WORDS, "max_sequence_length": TEXT_TOKENS}),
    "ltx": (tiny_ltx, {**FILM, **WORDS, "max_sequence_length": TEXT_TOKENS}),
    "hunyuan_video": (tiny_hunyuan, {**FILM, **WORDS}),
}


@pytest.mark.parametrize("family", CALLS)
def test_the_last_prediction_is_the_result_and_the_first_is_not_the_noise(family: str) -> None:
    build, given = CALLS[family]
    pipe = own_pipeline(build())
    if family == "sd":
        pipe.scheduler = df.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    recorder = StepRecorder(pipe.scheduler)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def look(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"]
        seen.append((recorder.predicted(latents), latents.float()))
        return {}

    pipe(
        **given,
        generator=torch.Generator().manual_seed(7),
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["latents"],
        output_type="latent",
    )
    predicted, reached = seen[-1]
    assert torch.allclose(predicted, reached, atol=1e-3, rtol=1e-3)
    predicted, reached = seen[0]
    assert predicted.shape == reached.shape
    assert not torch.allclose(predicted, reached, atol=1e-2)


class Grey:
    weights = ((0.5, 0.5, 0.5),)
    bias = (0.0, 0.0, 0.0)


def test_a_moving_preview_has_a_few_frames_and_the_videos_length() -> None:
    latents = torch.linspace(0, 2, 21)[:, None, None, None].expand(21, 1, 4, 6)
    made = PreviewPainter(Grey(), 8).animate(latents, seconds=5.0)
    assert made is not None
    data, size = made
    assert size == (48, 32)
    picture = Image.open(io.BytesIO(data))
    frames, seconds, greys = getattr(picture, "n_frames", 1), 0.0, list[int]()
    for index in range(frames):
        picture.seek(index)
        greys.append(int(np.asarray(picture.convert("L"))[20, 20]))
        seconds += picture.info["duration"] / 1000
    assert frames == 8
    assert seconds == pytest.approx(5.0, abs=0.1)
    assert greys == sorted(greys)
    assert (greys[0], greys[-1]) == (0, 255)


def test_a_preview_that_is_not_finite_is_not_sent() -> None:
    latents = torch.zeros(3, 1, 4, 4)
    latents[1] = float("nan")
    assert PreviewPainter(Grey(), 8).animate(latents, seconds=1.0) is None
