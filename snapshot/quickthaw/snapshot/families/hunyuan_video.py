"""HunyuanVideo: a language model reads the prompt in a message, CLIP sums it up; to make a video of
a picture, the language model sees that too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quickthaw.snapshot.families.base import IN_EACH_BRANCH, NOTHING_LEARNED, Family, Learned
from quickthaw.snapshot.input_properties import FrameRule, Output
from quickthaw.snapshot.manifest import Kind


def _of_two_branches(pipeline: Any) -> Learned:
    """The published model is told how closely to follow the prompt, and sees no other one."""
    if pipeline.transformer.config.guidance_embeds:
        return NOTHING_LEARNED
    return Learned(inputs=IN_EACH_BRANCH)


def _of_pictures(pipeline: Any) -> Learned:
    """The first release for pictures is not told, and does without a second branch unless asked."""
    if pipeline.transformer.config.guidance_embeds:
        return NOTHING_LEARNED
    return Learned(inputs=IN_EACH_BRANCH, defaults={"guidance_scale": 1.0})


HUNYUAN_VIDEO = Family(
    name="hunyuan_video",
    pipeline_classes=("diffusers.HunyuanVideoPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "text_encoder_2": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    inputs=("guidance_scale",),
    defaults={"guidance_scale": 6.0},
    output=Output.VIDEO,
    side_step=16,
    landscape=(960, 544),
    frames=FrameRule(default=129, step=4, fps=24),
    tiled_over_pixels=0,  # Its decoder's maps have every frame of a piece at full size.
    learn=_of_two_branches,
)

HUNYUAN_VIDEO_I2V = replace(
    HUNYUAN_VIDEO,
    name="hunyuan_video_i2v",
    pipeline_classes=("diffusers.HunyuanVideoImageToVideoPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "text_encoder_2": Kind.TEXT_ENCODER,
        # It encodes the picture before the first step.
        "vae": Kind.VAE,
        "transformer": Kind.DENOISER,
    },
    required=("prompt", "image_url"),
    landscape=(1280, 720),
    learn=_of_pictures,
)
