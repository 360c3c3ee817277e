"""Stable Diffusion 1.x and 2.x, XL and 3, and their releases that fill in what a mask shows."""

from __future__ import annotations

from dataclasses import replace

from quickthaw.snapshot.families.base import FROM_PICTURE, IN_EACH_BRANCH, LORAS, Family
from quickthaw.snapshot.manifest import Kind

SD = Family(
    name="sd",
    pipeline_classes=("diffusers.StableDiffusionPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "image_encoder": Kind.IMAGE_ENCODER,
        "unet": Kind.DENOISER,
        "vae": Kind.VAE,
        "safety_checker": Kind.SAFETY_CHECKER,
    },
    denoiser="unet",
    patch=1,
    inputs=(*IN_EACH_BRANCH, *FROM_PICTURE, *LORAS),
)

SDXL = Family(
    name="sdxl",
    pipeline_classes=("diffusers.StableDiffusionXLPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "text_encoder_2": Kind.TEXT_ENCODER,
        "image_encoder": Kind.IMAGE_ENCODER,
        "unet": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="unet",
    patch=1,
    inputs=(*IN_EACH_BRANCH, *FROM_PICTURE, *LORAS),
    defaults={"guidance_scale": 5.0},
)

SD3 = Family(
    name="sd3",
    pipeline_classes=("diffusers.StableDiffusion3Pipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "text_encoder_2": Kind.TEXT_ENCODER,
        "text_encoder_3": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    inputs=(*IN_EACH_BRANCH, *FROM_PICTURE, *LORAS),
    defaults={"guidance_scale": 7.0, "num_inference_steps": 28},
)

# Their denoisers read the mask and what it leaves of the picture beside the latents.
SD_INPAINT = replace(
    SD,
    name="sd_inpaint",
    pipeline_classes=("diffusers.StableDiffusionInpaintPipeline",),
    required=("prompt", "image_url", "mask_url"),
    defaults={"strength": 1.0},
)

SDXL_INPAINT = replace(
    SDXL,
    name="sdxl_inpaint",
    pipeline_classes=("diffusers.StableDiffusionXLInpaintPipeline",),
    required=("prompt", "image_url", "mask_url"),
    # At 1 nothing of the picture is left to begin with, which its authors advise against.
    defaults={"guidance_scale": 8.0, "num_inference_steps": 20, "strength": 0.99},
)
