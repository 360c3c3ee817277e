"""Stable Audio."""

from __future__ import annotations

from quickthaw.snapshot.families.base import Family
from quickthaw.snapshot.input_properties import Output
from quickthaw.snapshot.manifest import Kind

STABLE_AUDIO = Family(
    name="stable_audio",
    pipeline_classes=("diffusers.StableAudioPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        # It encodes the times that a text comes with.
        "projection_model": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=1,
    inputs=("negative_prompt",),
    output=Output.AUDIO,
)
