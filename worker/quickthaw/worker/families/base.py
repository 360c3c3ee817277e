"""What families of one medium have in common, and where they may differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch

from quickthaw.wire.errors import FieldViolation, InvalidInput
from quickthaw.worker.inputs import ImageInput, SoundInput, VideoInput
from quickthaw.worker.pictures import Pictures

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


class Prompts(Protocol):
    """What of an input is read by text encoders."""

    @property
    def prompt(self) -> str: ...

    @property
    def negative_prompt(self) -> str: ...


def shaped(request: ImageInput, pictures: Pictures | None, side: int, step: int) -> ImageInput:
    """A request that says no size, with that of its first picture's shape and as many pixels as a
    square of `side`; of either side a multiple of `step`."""
    if request.size is not None or pictures is None:
        return request
    stretch = pictures.image.width / pictures.image.height
    # Nothing is so thin that it vanishes.
    width, height = (max(int(side * by) // step, 1) * step for by in (stretch**0.5, stretch**-0.5))
    return replace(request, width=width, height=height)


class _ReadsPrompts:
    encoder_suffixes: Sequence[str] = ("",)
    summary_suffix: str | None = None
    """Of an encoder that sees only a prompt's beginning, beside those that see all of it."""

    def encoders_of_all(self, pipe: Any) -> Sequence[str]:
        """Suffixes of the encoders that must see the whole prompt."""
        return self.encoder_suffixes

    def check_prompts(self, pipe: Any, request: Prompts, log: Log) -> None:
        """Raises InvalidInput if an encoder would cut a text off. Not thread-safe: tokenizers keep
        their truncation as state."""
        violations: list[FieldViolation] = []
        texts = {"input.prompt": request.prompt, "input.negative_prompt": request.negative_prompt}
        for suffix in self.encoders_of_all(pipe):
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
        self._tell_of_summary(pipe, request, log)

    def _tell_of_summary(self, pipe: Any, request: Prompts, log: Log) -> None:
        summary = None if self.summary_suffix is None else text_reader(pipe, self.summary_suffix)
        if summary is None or (tokens := summary.count(request.prompt)) <= summary.tokens_max:
            return
        others = " and ".join(f"text_encoder{suffix}" for suffix in self.encoders_of_all(pipe))
        log(
            "warning",
            f"the prompt is {tokens} tokens long for {summary.name}, which summarises only its "
            f"first {summary.tokens_max}; {others} reads all of it",
        )

    def tokens_max(self, pipe: Any, reader: TextReader) -> int:
        return reader.tokens_max


class MakesPictures(_ReadsPrompts):
    """One family. Methods are given a request's own pipeline (`pipe`); nothing is kept."""

    batches: bool = True
    """Several requests may be drawn at once: the pipeline takes a list of prompts, and pads them to
    one length whatever they are."""
    needs: Sequence[str] = ()
    """Pictures, by the names of their inputs, that its own pipeline begins with."""
    looks: bool = False
    """Its own pipeline looks at pictures and draws others: they stay as large as they are, and
    need not be there."""
    image_to_image: str = ""
    """Names of diffusers' pipeline classes over the same components, for requests that begin with a
    picture though its own pipeline takes none; empty: there is no such."""
    inpainting: str = ""

    def over(self, pipe: Any, pictures: Pictures | None) -> str:
        """The class that makes what is asked for; empty for the pipeline's own. Raises
        InvalidInput."""
        if self.needs or self.looks or pictures is None:
            return ""
        name = self.image_to_image if pictures.mask is None else self.inpainting
        if not name:
            raise InvalidInput("this model's family draws from text only: leave out image_url")
        return name

    def settled(self, pipe: Any, request: ImageInput, pictures: Pictures | None) -> ImageInput:
        """The request with whatever the pictures decide."""
        return request

    def arguments(self, pipe: Any, request: ImageInput) -> dict[str, Any]:
        """What the pipeline is called with, beside what every family is called with."""
        return {"negative_prompt": request.negative_prompt}

    def picture_arguments(
        self, pipe: Any, request: ImageInput, pictures: Pictures
    ) -> dict[str, Any]:
        """Likewise, for what begins with pictures; what the pipeline does not take is left out."""
        given = {"image": pictures.image, "strength": request.strength}
        return given if pictures.mask is None else {**given, "mask_image": pictures.mask}

    def latent_pictures(
        self, pipe: Any, latents: torch.Tensor, request: ImageInput
    ) -> torch.Tensor:
        """Latents as (images, channels, height, width)."""
        return latents


class MakesVideo(_ReadsPrompts, ABC):
    """One family of videos, each drawn alone, as `MakesPictures`."""

    needs: Sequence[str] = ()

    def over(self, pipe: Any, pictures: Pictures | None) -> str:
        """As of `MakesPictures`."""
        return ""

    @abstractmethod
    def arguments(
        self, pipe: Any, request: VideoInput, pictures: Pictures | None
    ) -> dict[str, Any]:
        """What the pipeline is called with, beside what every family is called with."""

    @abstractmethod
    def latent_frames(self, pipe: Any, latents: torch.Tensor, request: VideoInput) -> torch.Tensor:
        """Latents as (frames, channels, height, width)."""

    @abstractmethod
    def latent_pixels(self, pipe: Any) -> int:
        """How many pixels of the video a latent pixel is wide."""


class MakesSound(_ReadsPrompts, ABC):
    """One family of sounds, each made alone, as `MakesPictures`."""

    @abstractmethod
    def arguments(self, pipe: Any, request: SoundInput) -> dict[str, Any]:
        """What the pipeline is called with, beside what every family is called with."""

    @abstractmethod
    def sample_rate(self, pipe: Any) -> int:
        """Samples a second."""


Family: TypeAlias = MakesPictures | MakesVideo | MakesSound
"""A family says by its type which medium it makes."""
