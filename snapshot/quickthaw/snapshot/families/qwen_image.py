"""Qwen-Image: a large language model that sees reads the prompt, so pictures hold legible text; in
the releases for edits it sees the pictures, too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quickthaw.snapshot.families.base import (
    FROM_PICTURE,
    IN_EACH_BRANCH,
    LORAS,
    NOTHING_LEARNED,
    Family,
    Learned,
)
from quickthaw.snapshot.manifest import Kind

QWEN_IMAGE = Family(
    name="qwen_image",
    pipeline_classes=("diffusers.QwenImagePipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    inputs=(*IN_EACH_BRANCH, *FROM_PICTURE, *LORAS),
    defaults={"guidance_scale": 4.0, "num_inference_steps": 50},
    side_step=16,
    landscape=(1328, 1328),
)


def _of_several(pipeline: Any) -> Learned:
    """Later releases take more pictures than one."""
    if type(pipeline).__name__ == "QwenImageEditPipeline":
        return NOTHING_LEARNED
    return Learned(inputs=("image_urls",), defaults={"num_inference_steps": 40})


QWEN_IMAGE_EDIT = replace(
    QWEN_IMAGE,
    name="qwen_image_edit",
    pipeline_classes=("diffusers.QwenImageEditPlusPipeline", "diffusers.QwenImageEditPipeline"),
    inputs=(*IN_EACH_BRANCH, *LORAS),
    required=("prompt", "image_url"),
    described={
        "prompt": "What is to be different in the picture, or to be made of the pictures.",
        "image_url": "The picture that is changed: an HTTP or data URL.",
        "image_size": "Width and height in pixels; null for the shape of the picture.",
    },
    shaped_by_picture=True,
    landscape=(1024, 1024),
    learn=_of_several,
)
