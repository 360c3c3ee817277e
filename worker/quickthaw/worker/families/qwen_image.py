"""Qwen-Image: the prompt is a message to a language model, whose thoughts the denoiser reads."""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.worker.families.base import MakesPictures, TextReader
from quickthaw.worker.families.flux import unpacked
from quickthaw.worker.inputs import ImageInput

_TOKENS_MAX = 1024
"""As the pipeline has it, with the end of the message."""
_END_TOKENS = 5


class QwenImage(MakesPictures):
    batches = False
    """Prompts are as long as they are, so another one beside it would pad this one."""
    image_to_image = "QwenImageImg2ImgPipeline"
    inpainting = "QwenImageInpaintPipeline"

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX) - _END_TOKENS

    def arguments(self, pipe: Any, request: ImageInput) -> dict[str, Any]:
        distilled = bool(pipe.transformer.config.guidance_embeds)
        guided = request.guidance_scale > 1 and not distilled
        return {
            "guidance_scale": request.guidance_scale if distilled else None,
            "true_cfg_scale": request.guidance_scale if guided else 1.0,
            # An empty text is none to the pipeline, which would then go without guidance.
            "negative_prompt": (request.negative_prompt or " ") if guided else None,
            "max_sequence_length": _TOKENS_MAX,
        }

    def latent_pictures(
        self, pipe: Any, latents: torch.Tensor, request: ImageInput
    ) -> torch.Tensor:
        return unpacked(pipe, latents, request)[:, :, 0]  # the VAE is one of videos


FAMILY = QwenImage()
