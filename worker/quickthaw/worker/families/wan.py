"""Wan 2.1 and 2.2: videos from a text. Of 2.2, a second transformer does the later steps."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from quickthaw.worker.families.base import MakesVideo, TextReader, text_reader
from quickthaw.worker.inputs import VideoInput

_TOKENS_MAX = 512
"""What the model was trained with; shorter prompts are padded to it, which shows."""


class Wan(MakesVideo):
    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX)

    def arguments(
        self, pipe: Any, request: VideoInput, picture: Image.Image | None
    ) -> dict[str, Any]:
        reader = text_reader(pipe)
        assert reader is not None, "a Wan snapshot has its text encoder"
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "guidance_scale": request.guidance_scale,
            "max_sequence_length": self.tokens_max(pipe, reader),
        }

    def latent_frames(self, pipe: Any, latents: torch.Tensor, request: VideoInput) -> torch.Tensor:
        return latents[0].transpose(0, 1)

    def latent_pixels(self, pipe: Any) -> int:
        return int(pipe.vae_scale_factor_spatial)


FAMILY = Wan()
