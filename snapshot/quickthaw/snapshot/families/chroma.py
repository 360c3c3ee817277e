"""Chroma: Flux's shape with one text encoder, guided by two predictions."""

from __future__ import annotations

from dataclasses import replace

from quickthaw.snapshot.families.base import IN_EACH_BRANCH, LORAS, NOTHING_LEARNED
from quickthaw.snapshot.families.flux import FLUX
from quickthaw.snapshot.manifest import Kind

CHROMA = replace(
    FLUX,
    name="chroma",
    pipeline_classes=("diffusers.ChromaPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "image_encoder": Kind.IMAGE_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    # Its pipeline for masks asks for a setting that its transformer has not got.
    inputs=(*IN_EACH_BRANCH, "image_url", "strength", *LORAS),
    defaults={"guidance_scale": 5.0, "num_inference_steps": 35},
    learn=lambda pipeline: NOTHING_LEARNED,
)
