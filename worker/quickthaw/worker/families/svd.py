"""Stable Video Diffusion: sets a picture in motion, without a text."""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.worker.families.base import MakesVideo
from quickthaw.worker.inputs import VideoInput
from quickthaw.worker.pictures import Pictures

FRAMES_DECODED_AT_ONCE = 8
"""All of them take tens of gigabytes at the model's own size."""


class StableVideoDiffusion(MakesVideo):
    needs = ("image_url",)
    encoder_suffixes = ()

    def arguments(
        self, pipe: Any, request: VideoInput, pictures: Pictures | None
    ) -> dict[str, Any]:
        assert pictures is not None, "this family needs one"
        return {
            "image": pictures.image,
            "fps": request.fps,
            "motion_bucket_id": request.motion_bucket_id,
            "noise_aug_strength": request.noise_aug_strength,
            "min_guidance_scale": request.min_guidance_scale,
            "max_guidance_scale": request.max_guidance_scale,
            "decode_chunk_size": FRAMES_DECODED_AT_ONCE,
        }

    def latent_frames(self, pipe: Any, latents: torch.Tensor, request: VideoInput) -> torch.Tensor:
        return latents[0]

    def latent_pixels(self, pipe: Any) -> int:
        return int(pipe.vae_scale_factor)


FAMILY = StableVideoDiffusion()
