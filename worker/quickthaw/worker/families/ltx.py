"""LTX-Video: videos from a text, fast, since its latents are small."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from quickthaw.worker.families.base import MakesVideo, TextReader, text_reader
from quickthaw.worker.inputs import VideoInput

_TOKENS_MAX = 128
"""As its pipeline has it."""
_DECODING = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}
"""For releases whose decoder denoises too: what their authors use."""


class Ltx(MakesVideo):
    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX)

    def arguments(
        self, pipe: Any, request: VideoInput, picture: Image.Image | None
    ) -> dict[str, Any]:
        reader = text_reader(pipe)
        assert reader is not None, "an LTX snapshot has its text encoder"
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "guidance_scale": request.guidance_scale,
            "frame_rate": request.fps,
            "max_sequence_length": self.tokens_max(pipe, reader),
            **(_DECODING if pipe.vae.config.timestep_conditioning else {}),
        }

    def latent_frames(self, pipe: Any, latents: torch.Tensor, request: VideoInput) -> torch.Tensor:
        # The transformer sees latent pixels as tokens.
        unpacked: torch.Tensor = pipe._unpack_latents(
            latents,
            (request.num_frames - 1) // pipe.vae_temporal_compression_ratio + 1,
            request.height // pipe.vae_spatial_compression_ratio,
            request.width // pipe.vae_spatial_compression_ratio,
            pipe.transformer_spatial_patch_size,
            pipe.transformer_temporal_patch_size,
        )
        return unpacked[0].transpose(0, 1)

    def latent_pixels(self, pipe: Any) -> int:
        return int(pipe.vae_spatial_compression_ratio)


FAMILY = Ltx()
