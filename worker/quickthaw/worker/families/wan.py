"""Wan 2.1 and 2.2: videos from a text. Of 2.2, a second transformer does the later steps, and the
small model may begin with a picture."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from quickthaw.wire.errors import EngineFailed
from quickthaw.worker.families.base import MakesVideo, TextReader, text_reader
from quickthaw.worker.inputs import VideoInput
from quickthaw.worker.pictures import Pictures

_TOKENS_MAX = 512
"""What the model was trained with; shorter prompts are padded to it, which shows."""


class Wan(MakesVideo):
    def over(self, pipe: Any, pictures: Pictures | None) -> str:
        return "" if pictures is None else "WanImageToVideoPipeline"

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX)

    def arguments(
        self, pipe: Any, request: VideoInput, pictures: Pictures | None
    ) -> dict[str, Any]:
        reader = text_reader(pipe)
        assert reader is not None, "a Wan snapshot has its text encoder"
        if pictures is not None and importlib.util.find_spec("ftfy") is None:
            raise EngineFailed(
                "this worker cannot read a prompt to a picture as Wan does: install "
                "quickthaw[media], which brings ftfy"
            )
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "guidance_scale": request.guidance_scale,
            "max_sequence_length": self.tokens_max(pipe, reader),
            **({} if pictures is None else {"image": pictures.image, "last_image": pictures.end}),
        }

    def latent_frames(self, pipe: Any, latents: torch.Tensor, request: VideoInput) -> torch.Tensor:
        frames = latents[0].transpose(0, 1)
        if request.image_url and pipe.config.expand_timesteps:
            return frames[1:]  # The first is the picture, put in only at the end.
        return frames

    def latent_pixels(self, pipe: Any) -> int:
        return int(pipe.vae_scale_factor_spatial)


FAMILY = Wan()
