"""Qwen-Image: a large language model that sees reads the prompt, so pictures hold legible text."""

from __future__ import annotations

from quickthaw.snapshot.families.base import FROM_PICTURE, IN_EACH_BRANCH, Family
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
    inputs=(*IN_EACH_BRANCH, *FROM_PICTURE),
    defaults={"guidance_scale": 4.0, "num_inference_steps": 50},
    side_step=16,
    landscape=(1328, 1328),
)
