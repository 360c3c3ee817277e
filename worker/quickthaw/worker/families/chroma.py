"""Chroma: T5 alone reads the prompt; latents are Flux's."""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.worker.families.base import MakesPictures, TextReader, text_reader
from quickthaw.worker.families.flux import unpacked
from quickthaw.worker.inputs import ImageInput

_TOKENS_MAX = 512
"""As the pipeline has it; shorter prompts are padded to it, which shows."""


class Chroma(MakesPictures):
    image_to_image = "ChromaImg2ImgPipeline"
    batches = False

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX)

    def arguments(self, pipe: Any, request: ImageInput) -> dict[str, Any]:
        reader = text_reader(pipe)
        assert reader is not None, "a Chroma snapshot has its text encoder"
        longest = self.tokens_max(pipe, reader)
        return {**super().arguments(pipe, request), "max_sequence_length": longest}

    def latent_pictures(
        self, pipe: Any, latents: torch.Tensor, request: ImageInput
    ) -> torch.Tensor:
        return unpacked(pipe, latents, request)


FAMILY = Chroma()
