"""Predicted pictures: for every kind of scheduler, the clean latents that the step implies."""

from __future__ import annotations

import inspect
import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from PIL import Image

from quickthaw.worker.previews import SIDE_PIXELS_MAX, PreviewPainter, StepRecorder

# diffusers' Euler schedulers hand torch tensors to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@dataclass(frozen=True)
class Linear:
    weights: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]


@pytest.mark.parametrize(
    ("scheduler_class", "given"),
    [
        (DDIMScheduler, {"clip_sample": False}),
        (DDIMScheduler, {"clip_sample": False, "prediction_type": "v_prediction"}),
        (DDPMScheduler, {"clip_sample": False}),
        (PNDMScheduler, {"skip_prk_steps": True}),
        (DPMSolverMultistepScheduler, {}),
        (EulerDiscreteScheduler, {}),
        (EulerDiscreteScheduler, {"prediction_type": "v_prediction"}),
        (EulerAncestralDiscreteScheduler, {}),
        (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    ],
)
def test_a_model_that_knows_the_answer_previews_it_from_the_first_step(
    scheduler_class: Any, given: dict[str, Any]
) -> None:
    """Each step's model output is computed from the true x0; the preview must give x0 back."""
    scheduler = scheduler_class(**given)
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler.set_timesteps(6)
    recorder = StepRecorder(scheduler)
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    exploding = hasattr(scheduler, "sigmas") and type(scheduler).__name__.startswith("Euler")
    sample = noise.clone() if flow else noise * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        if flow:
            sigma = scheduler.sigmas[index]
            output = (sample - clean) / sigma
        elif exploding:
            sigma = scheduler.sigmas[index]
            output = (sample - clean) / sigma
            if scheduler.config.prediction_type == "v_prediction":
                output = (sample / (sigma**2 + 1) - clean) * (sigma**2 + 1).sqrt() / sigma
        else:
            alpha = scheduler.alphas_cumprod[int(timestep)]
            output = (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            if scheduler.config.prediction_type == "v_prediction":
                output = (alpha.sqrt() * sample - clean) / (1 - alpha).sqrt()
        if exploding:
            scheduler.scale_model_input(sample, timestep)
        before = sample
        sample = scheduler.step(output, timestep, before, return_dict=False)[0]
        assert torch.allclose(recorder.predicted(sample), clean, atol=2e-3)
        if index == 3:
            break


def test_watching_a_scheduler_leaves_its_signature_and_its_results() -> None:
    plain, watched = DDIMScheduler(clip_sample=False), DDIMScheduler(clip_sample=False)
    signature = inspect.signature(watched.step)
    StepRecorder(watched)
    assert inspect.signature(watched.step) == signature
    sample = torch.ones(1, 4, 2, 2)
    results = []
    for scheduler in (plain, watched):
        scheduler.set_timesteps(4)
        timestep = scheduler.timesteps[0]
        results.append(scheduler.step(sample * 0.5, timestep, sample, return_dict=False)[0])
    assert torch.equal(*results)


def test_latents_become_the_colours_of_the_linear_map() -> None:
    painter = PreviewPainter(Linear(((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), (0.0, 0.5, 0.0)), 8)
    latents = torch.zeros(2, 2, 4, 4)
    latents[1, 0] = 1.0
    (first, size), (second, _) = painter.paint(latents)
    assert size == (32, 32)
    assert Image.open(io.BytesIO(first)).getpixel((16, 16)) == pytest.approx((0, 128, 0), abs=3)
    assert Image.open(io.BytesIO(second)).getpixel((16, 16)) == pytest.approx((255, 128, 0), abs=3)


def test_previews_are_small_whatever_the_picture() -> None:
    painter = PreviewPainter(Linear(((1.0, 1.0, 1.0),) * 4, (0.0, 0.0, 0.0)), 8)
    ((data, size),) = painter.paint(torch.rand(1, 4, 128, 64))
    assert size == (SIDE_PIXELS_MAX // 2, SIDE_PIXELS_MAX)
    assert len(data) < 64 * 1024


def test_latents_that_are_not_finite_give_no_preview() -> None:
    painter = PreviewPainter(Linear(((1.0, 1.0, 1.0),), (0.0, 0.0, 0.0)), 8)
    assert list(painter.paint(torch.full((1, 1, 2, 2), float("nan")))) == []
