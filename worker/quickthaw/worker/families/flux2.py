"""Flux 2: the prompt is a message to a language model, and pictures are seen beside what is drawn.

Prompts are padded to one length, whatever they are, so requests may be drawn together.
"""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.wire.errors import FieldViolation, InvalidInput
from quickthaw.worker.families.base import MakesPictures, TextReader
from quickthaw.worker.inputs import ImageInput
from quickthaw.worker.pictures import Pictures

_TOKENS_MAX = 512
"""As the pipeline has it, with what frames the message."""
_SIDE_MIN = 64
"""Pixels; the pipeline takes no smaller picture."""


class Flux2(MakesPictures):
    looks = True

    def framed(self, pipe: Any, prompt: str) -> str:
        """What the language model is given to read."""
        told = {"system": pipe.system_message, "user": prompt}
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in told.items()
        ]
        return str(pipe.tokenizer.apply_chat_template(messages, tokenize=False))

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return min(reader.tokens_max, _TOKENS_MAX) - reader.count(self.framed(pipe, ""))

    def arguments(self, pipe: Any, request: ImageInput) -> dict[str, Any]:
        return {}

    def picture_arguments(
        self, pipe: Any, request: ImageInput, pictures: Pictures
    ) -> dict[str, Any]:
        seen = [pictures.image, *pictures.more]
        for each in seen:
            if min(each.size) < _SIDE_MIN:
                size = f"{each.width} x {each.height} pixels"
                told = f"names a picture of {size}: this model takes none under {_SIDE_MIN} a side"
                violation = FieldViolation("input.image_url", told)
                raise InvalidInput(f"input.image_url {told}", violations=(violation,))
        return {"image": seen}

    def latent_pictures(
        self, pipe: Any, latents: torch.Tensor, request: ImageInput
    ) -> torch.Tensor:
        """Tokens are 2 x 2 patches, whose channels the VAE has brought to one spread."""
        side = 2 * pipe.vae_scale_factor
        rows, columns = request.height // side, request.width // side
        patches = latents.mT.reshape(len(latents), -1, rows, columns)
        mean, variance = (
            each.to(patches).view(1, -1, 1, 1)
            for each in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var)
        )
        spread = (variance + pipe.vae.config.batch_norm_eps).sqrt()
        found: torch.Tensor = pipe._unpatchify_latents(patches * spread + mean)
        return found


FAMILY = Flux2()
