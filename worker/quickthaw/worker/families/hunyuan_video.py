"""HunyuanVideo: Llama reads the prompt in a message that asks for a description of a video; CLIP
gives a pooled summary of its beginning."""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.worker.families.base import MakesVideo, TextReader
from quickthaw.worker.inputs import VideoInput
from quickthaw.worker.pictures import Pictures

TOKENS_MAX = 256
"""As the pipeline has it, without what comes before the prompt and with the mark that ends the
message, for which the mark at the beginning of a prompt by itself stands."""


class HunyuanVideo(MakesVideo):
    summary_suffix = "_2"

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return TOKENS_MAX

    def arguments(
        self, pipe: Any, request: VideoInput, pictures: Pictures | None
    ) -> dict[str, Any]:
        told = bool(pipe.transformer.config.guidance_embeds)
        return {
            "prompt": request.prompt,
            "negative_prompt": None if told else request.negative_prompt,
            "guidance_scale": request.guidance_scale if told else 1.0,
            "true_cfg_scale": 1.0 if told else request.guidance_scale,
            "max_sequence_length": TOKENS_MAX,
        }

    def latent_frames(self, pipe: Any, latents: torch.Tensor, request: VideoInput) -> torch.Tensor:
        return latents[0].transpose(0, 1)

    def latent_pixels(self, pipe: Any) -> int:
        return int(pipe.vae_scale_factor_spatial)


FAMILY = HunyuanVideo()
