"""Stable Diffusion 3: two CLIP encoders and, where the snapshot has it, T5 read the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quickthaw.worker.families.base import MakesPictures, TextReader, text_reader
from quickthaw.worker.inputs import ImageInput

_TOKENS_MAX = 256
"""Of T5, as the pipeline has it."""


class StableDiffusion3(MakesPictures):
    image_to_image = "StableDiffusion3Img2ImgPipeline"
    inpainting = "StableDiffusion3InpaintPipeline"

    def encoders_of_all(self, pipe: Any) -> Sequence[str]:
        # With T5 there, CLIP need not see the end of a long prompt.
        return ("", "_2") if text_reader(pipe, "_3") is None else ("_3",)

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX)

    def arguments(self, pipe: Any, request: ImageInput) -> dict[str, Any]:
        reader = text_reader(pipe, "_3")
        longest = _TOKENS_MAX if reader is None else self.tokens_max(pipe, reader)
        return {**super().arguments(pipe, request), "max_sequence_length": longest}


FAMILY = StableDiffusion3()
