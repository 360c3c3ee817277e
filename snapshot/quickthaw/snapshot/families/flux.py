"""Flux: from a text, changing a picture as a text says (Kontext), filling in a picture (Fill)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quickthaw.snapshot.families.base import FROM_PICTURE, LORAS, NOTHING_LEARNED, Family, Learned
from quickthaw.snapshot.manifest import Kind


def _distilled(pipeline: Any) -> Learned:
    """Models distilled for few steps take no guidance."""
    if getattr(pipeline.transformer.config, "guidance_embeds", None) is not False:
        return NOTHING_LEARNED
    return Learned(defaults={"num_inference_steps": 4, "guidance_scale": 0.0})


FLUX = Family(
    name="flux",
    pipeline_classes=("diffusers.FluxPipeline",),
    components={
        # The pooled CLIP embedding and T5's sequence are both needed before the first step.
        "text_encoder": Kind.TEXT_ENCODER,
        "text_encoder_2": Kind.TEXT_ENCODER,
        "image_encoder": Kind.IMAGE_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    inputs=(*FROM_PICTURE, *LORAS),
    defaults={"guidance_scale": 3.5},
    learn=_distilled,
)

FLUX_KONTEXT = replace(
    FLUX,
    name="flux_kontext",
    pipeline_classes=("diffusers.FluxKontextPipeline",),
    inputs=LORAS,
    required=("prompt", "image_url"),
    defaults={"guidance_scale": 2.5, "num_inference_steps": 28},
    described={
        "prompt": "What is to be different in the picture.",
        "image_url": "The picture that is changed: an HTTP or data URL.",
        "image_size": "Width and height in pixels; null for the shape of the picture.",
    },
    shaped_by_picture=True,
)

FLUX_FILL = replace(
    FLUX,
    name="flux_fill",
    pipeline_classes=("diffusers.FluxFillPipeline",),
    inputs=("prompt", "strength", *LORAS),
    required=("image_url", "mask_url"),
    defaults={"guidance_scale": 30.0, "num_inference_steps": 50, "strength": 1.0},
)
