"""What there is to know of a pipeline kind before one of its models is there.

`num_images`, `seed` and the rest are this platform's words; the worker's adapter of a family turns
them into the arguments of its pipeline class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.input_properties import (
    SECONDS_MAX,
    FrameRule,
    Limits,
    Output,
    SizeRule,
    properties_of,
)
from quickthaw.snapshot.manifest import Kind

ANY_SIZE = SizeRule(default=1, multiple_of=1, minimum=1, maximum=1 << 20)
"""For reading input before there is a pipeline to say which sizes it draws."""
ANY_FRAMES = FrameRule()


TILED_OVER_PIXELS = 2 << 20
"""Twice as many as most models of pictures were trained with: what people usually ask for stays
below."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What only a model's own configuration says."""

    inputs: tuple[str, ...] = ()
    """Taken by this model beside those of its family."""
    required: tuple[str, ...] = ()
    """Likewise, and without a default."""
    defaults: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])


@dataclass(frozen=True, slots=True)
class Chat:
    """How a family's pipelines put a prompt to a language model."""

    template: str
    """It is code, so it is the family's and never a model's."""
    example: tuple[Mapping[str, JsonValue], ...]
    """A conversation as the pipelines hold it, to compare templates by."""
    settings: Mapping[str, JsonValue]
    """What the pipelines tell the template beside it."""


EXAMPLE_PROMPT = "a red circle\nabove a blue square "
"""With what a template might take off or change."""

Learn: TypeAlias = Callable[[Any], Learned]
"""From a live pipeline of the family."""

NOTHING_LEARNED = Learned()

IN_EACH_BRANCH = ("negative_prompt",)
"""Of what is guided by two predictions."""
LORAS = ("loras",)
"""Of what diffusers lays LoRAs over."""
FROM_PICTURE = ("image_url", "mask_url", "strength")
"""Of what draws from a text, and may begin with a picture."""


@dataclass(frozen=True, slots=True)
class Family:
    """One pipeline kind.

    `components` maps names to kinds in load order: what a request needs first comes first.
    """

    name: str
    pipeline_classes: tuple[str, ...]
    components: Mapping[str, Kind]
    denoiser: str
    patch: int
    """Latent pixels a denoiser token is wide; picture sides are multiples of patch × VAE scale."""
    inputs: tuple[str, ...] = ()
    """Names of `input_properties`, beside those that all take which make the same."""
    required: tuple[str, ...] = ("prompt",)
    """Inputs without a default, which every request has."""
    defaults: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    described: Mapping[str, str] = field(default_factory=dict[str, str])
    """What inputs mean, where that is not what they mean elsewhere."""
    output: Output = Output.IMAGE
    shaped_by_picture: bool = False
    """What has no size given has that of its picture."""
    side_step: int = 8
    """What its pipelines want sides to be a multiple of, whatever the VAE."""
    landscape: tuple[int, int] | None = None
    """Width and height unless told, or their shape where the denoiser says at which side it was
    trained."""
    frames: FrameRule = ANY_FRAMES
    """Where the pipeline does not say."""
    tiled_over_pixels: int | None = TILED_OVER_PIXELS
    """A picture of more pixels, or a frame, is decoded in tiles of the VAE's own size, whoever asks
    and wherever it runs, so that the same request gives the same bytes; None: its VAE has none."""
    decodes_frames_together: bool = False
    """Its VAE decodes all frames in one piece, so it is their pixels that count."""
    chat: Chat | None = None
    learn: Learn = lambda pipeline: NOTHING_LEARNED

    def decodes_in_tiles(self, size: tuple[int, int], frames: int = 1) -> bool:
        """What is made has this width, height and, of videos, so many frames."""
        if self.tiled_over_pixels is None:
            return False
        together = frames if self.decodes_frames_together else 1
        return size[0] * size[1] * together > self.tiled_over_pixels

    def decodes_one_by_one(self, size: tuple[int, int], pictures: int) -> bool:
        """Rather than `pictures` of a width and height at once."""
        width, height = size
        limit = self.tiled_over_pixels
        return limit is not None and pictures > 1 and width * height * pictures > limit

    def input_schema(
        self,
        size: SizeRule,
        defaults: Mapping[str, JsonValue] | None = None,
        *,
        frames: FrameRule = ANY_FRAMES,
        seconds_max: float = SECONDS_MAX,
        learned: Learned = NOTHING_LEARNED,
    ) -> dict[str, JsonValue]:
        """JSON Schema (2020-12) of a request's input, defaults filled in.

        `defaults` override what was learned, and that the family's; an unknown name raises
        `SnapshotInvalid`. `seconds_max`: of a sound.
        """
        required = (*self.required, *learned.required)
        names = {*self.inputs, *required, *learned.inputs}
        limits = Limits(size, frames, seconds_max)
        properties = properties_of(self.output, names, limits)
        if self.shaped_by_picture:
            unsized: dict[str, JsonValue] = {"type": ["object", "null"], "default": None}
            properties["image_size"] |= unsized
        for name, told in self.described.items():
            if name in properties:
                properties[name]["description"] = told
        for name in required:
            properties[name]["minLength"] = 1
            properties[name].pop("default", None)
        for name, value in {**self.defaults, **learned.defaults, **(defaults or {})}.items():
            if name not in properties or name in required:
                known = ", ".join(key for key in properties if key not in required)
                invalid(Problem.MANIFEST, f"defaults.{name}", f"{self.name} takes only: {known}")
            properties[name]["default"] = value
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": False,
            "required": [*required],
            "properties": {**properties},
        }
