"""Stable Video Diffusion: sets a picture in motion, without a text."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from quickthaw.worker.families.base import MakesVideo
from quickthaw.worker.inputs import VideoInput

FRAMES_DECODED_AT_ONCE = 8
"""All of them take tens of gigabytes at the model's own size."""


class StableVideoDiffusion(MakesVideo):
    begins_with_picture = True
    encoder_suffixes = ()

    def arguments(
        self, pipe: Any, request: VideoInput, picture: Image.Image | None
    ) -> dict[str, Any]:
        return {
            "image": picture,
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
