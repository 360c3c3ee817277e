"""Wan 2.1 and 2.2: videos from a text, and from a picture and a text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quickthaw.snapshot.families.base import IN_EACH_BRANCH, NOTHING_LEARNED, Family, Learned
from quickthaw.snapshot.input_properties import FrameRule, Output
from quickthaw.snapshot.manifest import Kind

_FROM_BOTH = Learned(
    inputs=("image_url",),
    defaults={"image_size": {"width": 1280, "height": 704}, "num_frames": 121, "fps": 24},
)


def _of_both_kinds(pipeline: Any) -> Learned:
    """The small model of 2.2 makes videos from a text and may begin with a picture: one token
    knows of its own time, so that a first frame can be there already."""
    return _FROM_BOTH if pipeline.config.get("expand_timesteps") else NOTHING_LEARNED


def _of_pictures(pipeline: Any) -> Learned:
    """Whether the video may end with a picture too, or must."""
    if pipeline.config.get("expand_timesteps"):
        return Learned(defaults=_FROM_BOTH.defaults)
    denoiser = (pipeline.transformer or pipeline.transformer_2).config
    if denoiser.image_dim is None:  # The second release reads pictures as latents only.
        return Learned(inputs=("end_image_url",))
    # Of the first, what encodes the picture's content knows of places for one or for two.
    return (
        NOTHING_LEARNED
        if denoiser.pos_embed_seq_len is None
        else Learned(required=("end_image_url",))
    )


WAN = Family(
    name="wan",
    pipeline_classes=("diffusers.WanPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        # Of the second release, for the later steps.
        "transformer_2": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    inputs=(*IN_EACH_BRANCH, "guidance_scale"),
    output=Output.VIDEO,
    side_step=16,
    landscape=(832, 480),
    frames=FrameRule(default=81, step=4, fps=16),
    tiled_over_pixels=1280 * 720,  # as large as it was trained at
    learn=_of_both_kinds,
)

WAN_I2V = replace(
    WAN,
    name="wan_i2v",
    pipeline_classes=("diffusers.WanImageToVideoPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        # Of the first release; both encode the picture before the first step.
        "image_encoder": Kind.IMAGE_ENCODER,
        "vae": Kind.VAE,
        "transformer": Kind.DENOISER,
        "transformer_2": Kind.DENOISER,
    },
    required=("prompt", "image_url"),
    learn=_of_pictures,
)
