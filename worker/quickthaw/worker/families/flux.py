"""Flux: T5 reads the prompt; CLIP only gives a pooled summary of its beginning."""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.worker.families.base import MakesPictures, TextReader, text_reader
from quickthaw.worker.inputs import ImageInput

# What the two releases were trained with; the pipeline refuses more than 512.
_TOKENS_MAX_GUIDED = 512
_TOKENS_MAX_DISTILLED = 256


class Flux(MakesPictures):
    image_to_image = "FluxImg2ImgPipeline"
    inpainting = "FluxInpaintPipeline"
    encoder_suffixes = ("_2",)
    summary_suffix = ""

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        guided = bool(getattr(pipe.transformer.config, "guidance_embeds", False))
        return min(reader.tokens_max, _TOKENS_MAX_GUIDED if guided else _TOKENS_MAX_DISTILLED)

    def arguments(self, pipe: Any, request: ImageInput) -> dict[str, Any]:
        reader = text_reader(pipe, "_2")
        assert reader is not None, "a Flux snapshot has its second text encoder"
        return {"max_sequence_length": self.tokens_max(pipe, reader)}

    def latent_pictures(
        self, pipe: Any, latents: torch.Tensor, request: ImageInput
    ) -> torch.Tensor:
        return unpacked(pipe, latents, request)


def unpacked(pipe: Any, latents: torch.Tensor, request: ImageInput) -> torch.Tensor:
    """Latents as pictures; the transformer sees 2 x 2 patches of them as tokens."""
    found: torch.Tensor = pipe._unpack_latents(
        latents, request.height, request.width, pipe.vae_scale_factor
    )
    return found


FAMILY = Flux()
