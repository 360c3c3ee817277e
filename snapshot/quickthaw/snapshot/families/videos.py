"""LTX-Video and Stable Video Diffusion."""

from __future__ import annotations

from typing import Any

from quickthaw.snapshot.families.base import IN_EACH_BRANCH, NOTHING_LEARNED, Family, Learned
from quickthaw.snapshot.input_properties import FrameRule, Output
from quickthaw.snapshot.manifest import Kind


def _of_given_frames(pipeline: Any) -> Learned:
    """Later releases were trained to have any of the frames given."""
    later = type(pipeline).__name__ == "LTXConditionPipeline"
    return Learned(inputs=("end_image_url",)) if later else NOTHING_LEARNED


LTX = Family(
    name="ltx",
    # The same parts in all of them: the requests tell which one makes the video.
    pipeline_classes=(
        "diffusers.LTXPipeline",
        "diffusers.LTXImageToVideoPipeline",
        "diffusers.LTXConditionPipeline",
    ),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=1,
    inputs=(*IN_EACH_BRANCH, "image_url", "guidance_scale"),
    defaults={"guidance_scale": 3.0},
    output=Output.VIDEO,
    side_step=16,
    landscape=(704, 480),
    frames=FrameRule(default=161, step=8, fps=25),
    tiled_over_pixels=1280 * 720 * 121,  # its largest usual shape, of as many seconds
    decodes_frames_together=True,
    learn=_of_given_frames,
)

SVD = Family(
    name="svd",
    pipeline_classes=("diffusers.StableVideoDiffusionPipeline",),
    components={
        # The picture is encoded by both before the first step.
        "image_encoder": Kind.IMAGE_ENCODER,
        "vae": Kind.VAE,
        "unet": Kind.DENOISER,
    },
    denoiser="unet",
    patch=1,
    inputs=(
        "motion_bucket_id",
        "noise_aug_strength",
        "min_guidance_scale",
        "max_guidance_scale",
    ),
    required=("image_url",),
    defaults={"num_inference_steps": 25},
    output=Output.VIDEO,
    landscape=(1024, 576),
    tiled_over_pixels=None,  # The worker's adapter bounds how many frames are decoded at once.
)
