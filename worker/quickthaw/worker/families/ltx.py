"""LTX-Video: videos from a text, from a picture, or from one to another; fast, since its latents
are small."""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.worker.families.base import MakesVideo, TextReader, text_reader
from quickthaw.worker.inputs import VideoInput
from quickthaw.worker.pictures import Pictures

_FROM_TEXT, _FROM_PICTURE = "LTXPipeline", "LTXImageToVideoPipeline"
_BETWEEN = "LTXConditionPipeline"
"""Of the later releases, which were trained to have any frames given."""
_TOKENS_MAX = {_FROM_TEXT: 128, _FROM_PICTURE: 128, _BETWEEN: 256}
"""As the pipelines have it."""
_DECODING = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}
"""For releases whose decoder denoises too: what their authors use."""


class Ltx(MakesVideo):
    def over(self, pipe: Any, pictures: Pictures | None) -> str:
        if type(pipe).__name__ == _BETWEEN:
            return ""
        return _FROM_TEXT if pictures is None else _FROM_PICTURE

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX[type(pipe).__name__])

    def arguments(
        self, pipe: Any, request: VideoInput, pictures: Pictures | None
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
            **_given_frames(pipe, request, pictures),
        }

    def latent_frames(self, pipe: Any, latents: torch.Tensor, request: VideoInput) -> torch.Tensor:
        if latents.ndim == 5:  # All but the first, which is the picture's from the beginning.
            return latents[0].transpose(0, 1)
        frames = (request.num_frames - 1) // pipe.vae_temporal_compression_ratio + 1
        height = request.height // pipe.vae_spatial_compression_ratio
        width = request.width // pipe.vae_spatial_compression_ratio
        sides = pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size
        # The transformer sees latent pixels as tokens, those of given frames first.
        tokens = frames * height * width // (sides[0] ** 2 * sides[1])
        unpacked: torch.Tensor = pipe._unpack_latents(
            latents[:, -tokens:], frames, height, width, *sides
        )
        return unpacked[0].transpose(0, 1)

    def latent_pixels(self, pipe: Any) -> int:
        return int(pipe.vae_spatial_compression_ratio)


def _given_frames(pipe: Any, request: VideoInput, pictures: Pictures | None) -> dict[str, Any]:
    if pictures is None:
        return {}
    if pictures.end is None:
        return {"image": pictures.image}
    count = 2
    return {
        "image": [pictures.image, pictures.end],
        # The pipeline takes lists of all or of none.
        "video": [None] * count,
        "frame_index": [0, request.num_frames - 1],
        "strength": [1.0] * count,
    }


FAMILY = Ltx()
