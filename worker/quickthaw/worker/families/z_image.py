"""Z-Image: the prompt is a message to a language model, in the frame that the snapshot's family
gives it."""

from __future__ import annotations

from typing import Any

from quickthaw.worker.families.base import MakesPictures, TextReader
from quickthaw.worker.inputs import ImageInput

_TOKENS_MAX = 512
"""As the pipeline has it, with what frames the message."""
_FRAME_TOKENS = 8


class ZImage(MakesPictures):
    batches = False
    image_to_image = "ZImageImg2ImgPipeline"
    inpainting = "ZImageInpaintPipeline"

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX) - _FRAME_TOKENS

    def arguments(self, pipe: Any, request: ImageInput) -> dict[str, Any]:
        return {**super().arguments(pipe, request), "max_sequence_length": _TOKENS_MAX}


FAMILY = ZImage()
