"""The pipeline families that snapshots know: their classes, load order and input schema.

`num_images`, `seed` and the rest are this platform's words; the worker's adapter of a family turns
them into the arguments of its pipeline class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.input_properties import (
    SECONDS_MAX,
    FrameRule,
    Output,
    Properties,
    SizeRule,
    audio_properties,
    image_properties,
    motion_properties,
    video_properties,
)
from quickthaw.snapshot.manifest import Kind

ANY_SIZE = SizeRule(default=1, multiple_of=1, minimum=1, maximum=1 << 20)
"""For reading input before there is a pipeline to say which sizes it draws."""
ANY_FRAMES = FrameRule()


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
    negative_prompt: bool
    defaults: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    output: Output = Output.IMAGE
    from_picture: bool = False
    """Whether a request may begin with a picture; a video that may, must."""
    landscape: tuple[int, int] | None = None
    """Width and height that videos have unless told, or their shape where the denoiser says at
    which side it was trained."""
    frames: FrameRule = ANY_FRAMES
    """Where the pipeline does not say."""

    @property
    def required(self) -> str:
        """The one input that has no default."""
        return "image_url" if self.output is Output.VIDEO and self.from_picture else "prompt"

    def input_schema(
        self,
        size: SizeRule,
        defaults: Mapping[str, JsonValue] | None = None,
        *,
        frames: FrameRule = ANY_FRAMES,
        seconds_max: float = SECONDS_MAX,
    ) -> dict[str, JsonValue]:
        """JSON Schema (2020-12) of a request's input, defaults filled in.

        `defaults` override the family's; an unknown name raises `SnapshotInvalid`. `seconds_max`:
        of a sound.
        """
        properties, required = self._properties(size, frames, seconds_max), self.required
        for name, value in {**self.defaults, **(defaults or {})}.items():
            if name not in properties or name == required:
                known = ", ".join(key for key in properties if key != required)
                invalid(Problem.MANIFEST, f"defaults.{name}", f"{self.name} takes only: {known}")
            properties[name]["default"] = value
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": False,
            "required": [required],
            "properties": {**properties},
        }

    def _properties(self, size: SizeRule, frames: FrameRule, seconds_max: float) -> Properties:
        match self.output:
            case Output.IMAGE:
                return image_properties(
                    size, negative_prompt=self.negative_prompt, from_picture=self.from_picture
                )
            case Output.VIDEO if self.from_picture:
                return motion_properties(size, frames)
            case Output.VIDEO:
                return video_properties(size, frames, negative_prompt=self.negative_prompt)
            case Output.AUDIO:
                return audio_properties(seconds_max)
            case _:
                assert_never(self.output)


SD = Family(
    name="sd",
    pipeline_classes=("diffusers.StableDiffusionPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "image_encoder": Kind.IMAGE_ENCODER,
        "unet": Kind.DENOISER,
        "vae": Kind.VAE,
        "safety_checker": Kind.SAFETY_CHECKER,
    },
    denoiser="unet",
    patch=1,
    from_picture=True,
    negative_prompt=True,
)

SDXL = Family(
    name="sdxl",
    pipeline_classes=("diffusers.StableDiffusionXLPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "text_encoder_2": Kind.TEXT_ENCODER,
        "image_encoder": Kind.IMAGE_ENCODER,
        "unet": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="unet",
    patch=1,
    from_picture=True,
    negative_prompt=True,
    defaults={"guidance_scale": 5.0},
)

FLUX = Family(
    name="flux",
    pipeline_classes=("diffusers.FluxPipeline",),
    components={
        # The pooled CLIP embedding and T5's sequence are both needed before the first step.
        "text_encoder": Kind.TEXT_ENCODER,
        "text_encoder_2": Kind.TEXT_ENCODER,
        "image_encoder": Kind.IMAGE_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    from_picture=True,
    negative_prompt=False,
    defaults={"guidance_scale": 3.5},
)

SD3 = Family(
    name="sd3",
    pipeline_classes=("diffusers.StableDiffusion3Pipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "text_encoder_2": Kind.TEXT_ENCODER,
        "text_encoder_3": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    from_picture=True,
    negative_prompt=True,
    defaults={"guidance_scale": 7.0, "num_inference_steps": 28},
)

SVD = Family(
    name="svd",
    pipeline_classes=("diffusers.StableVideoDiffusionPipeline",),
    components={
        # The picture is encoded by both before the first step.
        "image_encoder": Kind.IMAGE_ENCODER,
        "vae": Kind.VAE,
        "unet": Kind.DENOISER,
    },
    denoiser="unet",
    patch=1,
    negative_prompt=False,
    output=Output.VIDEO,
    from_picture=True,
    landscape=(1024, 576),
)

WAN = Family(
    name="wan",
    pipeline_classes=("diffusers.WanPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        # Of the second release, for the later steps.
        "transformer_2": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    negative_prompt=True,
    output=Output.VIDEO,
    landscape=(832, 480),
    frames=FrameRule(default=81, step=4, fps=16),
)

LTX = Family(
    name="ltx",
    pipeline_classes=("diffusers.LTXPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=1,
    negative_prompt=True,
    defaults={"guidance_scale": 3.0},
    output=Output.VIDEO,
    landscape=(704, 480),
    frames=FrameRule(default=161, step=8, fps=25),
)

STABLE_AUDIO = Family(
    name="stable_audio",
    pipeline_classes=("diffusers.StableAudioPipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        # It encodes the times that a text comes with.
        "projection_model": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=1,
    negative_prompt=True,
    output=Output.AUDIO,
)

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (SD, SDXL, FLUX, SD3, SVD, WAN, LTX, STABLE_AUDIO)
}


def family_named(name: str) -> Family:
    if (family := FAMILIES.get(name)) is None:
        invalid(
            Problem.MANIFEST, "family", f"{name!r:.80} is unknown; known: {', '.join(FAMILIES)}"
        )
    return family


def family_of(pipeline_class: str) -> Family:
    """The family that a checked pipeline class path belongs to."""
    owners = {path: family for family in FAMILIES.values() for path in family.pipeline_classes}
    if (family := owners.get(pipeline_class)) is None:
        known = ", ".join(owners)
        invalid(Problem.MANIFEST, "pipeline", f"no family has {pipeline_class}; known: {known}")
    return family
