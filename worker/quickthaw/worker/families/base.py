"""What text-to-image families have in common, and where they may differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quickthaw.wire.errors import FieldViolation, InvalidInput
from quickthaw.worker.inputs import ImageInput

Log = Callable[[str, str], None]
"""Level and text, to whoever watches the request."""


@dataclass(frozen=True, slots=True)
class TextReader:
    """A tokenizer and how many tokens the encoder behind it takes, marks included."""

    name: str
    tokenizer: Any
    tokens_max: int

    def count(self, text: str) -> int:
        return len(self.tokenizer(text, truncation=False, verbose=False).input_ids)


def text_reader(pipe: Any, suffix: str = "") -> TextReader | None:
    """The pipeline's tokenizer and text encoder with this suffix (`_2`); None if it has none."""
    tokenizer = getattr(pipe, f"tokenizer{suffix}", None)
    encoder = getattr(pipe, f"text_encoder{suffix}", None)
    if tokenizer is None or encoder is None:
        return None
    # A tokenizer without a limit of its own says 10^30.
    limits = [int(tokenizer.model_max_length)]
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if positions:
        limits.append(int(positions))
    return TextReader(f"text_encoder{suffix}", tokenizer, min(limits))


class TextToImage:
    """One family. Methods are given a request's own pipeline (`pipe`); nothing is kept."""

    batches: bool = True
    """Several requests may be drawn at once: the pipeline takes a list of prompts, and pads them to
    one length whatever they are."""
    image_to_image: str = ""
    """Names of diffusers' pipeline classes over the same components, for requests that begin with a
    picture; empty: the family takes none."""
    inpainting: str = ""
    encoder_suffixes: Sequence[str] = ("",)
    """Encoders that must see the whole prompt."""

    def check_prompts(self, pipe: Any, request: ImageInput, log: Log) -> None:
        """Raises InvalidInput if an encoder would cut a text off. Not thread-safe: tokenizers keep
        their truncation as state."""
        violations: list[FieldViolation] = []
        texts = {"input.prompt": request.prompt, "input.negative_prompt": request.negative_prompt}
        for suffix in self.encoder_suffixes:
            reader = text_reader(pipe, suffix)
            if reader is None:
                continue
            for field, text in texts.items():
                tokens = reader.count(text) if text else 0
                limit = self.tokens_max(pipe, reader)
                if tokens > limit and field not in {line.field for line in violations}:
                    violations.append(
                        FieldViolation(
                            field,
                            f"is {tokens} tokens long, start and end marks included; "
                            f"{reader.name} reads at most {limit}",
                        )
                    )
        if violations:
            told = "; ".join(f"{line.field} {line.description}" for line in violations)
            raise InvalidInput(f"{told}: shorten it", violations=tuple(violations))

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return reader.tokens_max

    def arguments(self, pipe: Any, request: ImageInput) -> dict[str, Any]:
        """What the pipeline is called with, beside what every family is called with."""
        return {"negative_prompt": request.negative_prompt}

    def latent_pictures(
        self, pipe: Any, latents: torch.Tensor, request: ImageInput
    ) -> torch.Tensor:
        """Latents as (images, channels, height, width)."""
        return latents
