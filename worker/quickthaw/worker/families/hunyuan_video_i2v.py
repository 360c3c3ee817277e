"""HunyuanVideo that begins with a picture, which the language model sees beside the prompt."""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.worker.families.base import TextReader
from quickthaw.worker.families.hunyuan_video import TOKENS_MAX, HunyuanVideo
from quickthaw.worker.inputs import VideoInput
from quickthaw.worker.pictures import Pictures

_ANSWER_TOKENS = 4
"""Where the message's answer would begin, which the pipeline counts with the prompt."""


class HunyuanImageToVideo(HunyuanVideo):
    needs = ("image_url",)

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return TOKENS_MAX - _ANSWER_TOKENS

    def arguments(
        self, pipe: Any, request: VideoInput, pictures: Pictures | None
    ) -> dict[str, Any]:
        assert pictures is not None, "this family needs one"
        return {
            **super().arguments(pipe, request, pictures),
            "image": pictures.image,
            "num_frames": request.num_frames + _cut_off(pipe),
        }

    def latent_frames(self, pipe: Any, latents: torch.Tensor, request: VideoInput) -> torch.Tensor:
        frames = super().latent_frames(pipe, latents, request)
        return frames[1:] if _cut_off(pipe) else frames


def _cut_off(pipe: Any) -> int:
    """Frames that the first release's pipeline takes off the beginning of what it has made."""
    beside = pipe.transformer.config.image_condition_type == "latent_concat"
    return int(pipe.vae_scale_factor_temporal) if beside else 0


FAMILY = HunyuanImageToVideo()
