"""The pipeline families that snapshots know: their classes, load order and input schema.

`num_images`, `seed` and the rest are this platform's words; the worker's adapter of a family turns
them into the arguments of its pipeline class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.manifest import Kind

IMAGES_MAX = 8
SEED_MAX = (1 << 64) - 1
STEPS_MAX = 500
PROMPT_CHARS_MAX = 4096


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Picture sizes in pixels; each side is a multiple of `multiple_of`."""

    default: int
    multiple_of: int
    minimum: int
    maximum: int


ANY_SIZE = SizeRule(default=1, multiple_of=1, minimum=1, maximum=1 << 20)
"""For reading input before there is a pipeline to say which sizes it draws."""


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

    def input_schema(
        self, size: SizeRule, defaults: Mapping[str, JsonValue] | None = None
    ) -> dict[str, JsonValue]:
        """JSON Schema (2020-12) of a request's input, defaults filled in.

        `defaults` override the family's; an unknown name raises `SnapshotInvalid`.
        """
        properties = self._properties(size)
        for name, value in {**self.defaults, **(defaults or {})}.items():
            if name not in properties or name == "prompt":
                known = ", ".join(key for key in properties if key != "prompt")
                invalid(Problem.MANIFEST, f"defaults.{name}", f"{self.name} takes only: {known}")
            properties[name]["default"] = value
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": False,
            "required": ["prompt"],
            "properties": {**properties},
        }

    def _properties(self, size: SizeRule) -> dict[str, dict[str, JsonValue]]:
        side: dict[str, JsonValue] = {
            "type": "integer",
            "minimum": size.minimum,
            "maximum": size.maximum,
            "multipleOf": size.multiple_of,
        }
        prompt: dict[str, JsonValue] = {
            "type": "string",
            "description": "What the picture shows.",
            "minLength": 1,
            "maxLength": PROMPT_CHARS_MAX,
        }
        properties: dict[str, dict[str, JsonValue]] = {"prompt": prompt}
        if self.negative_prompt:
            properties["negative_prompt"] = {
                "type": "string",
                "description": "What the picture must not show; works with guidance_scale over 1.",
                "maxLength": PROMPT_CHARS_MAX,
                "default": "",
            }
        properties |= {
            "image_size": {
                "type": "object",
                "description": "Width and height in pixels.",
                "additionalProperties": False,
                "required": ["width", "height"],
                "properties": {"width": {**side}, "height": {**side}},
                "default": {"width": size.default, "height": size.default},
            },
            "num_images": {
                "type": "integer",
                "description": "Pictures to draw; each takes the next seed.",
                "minimum": 1,
                "maximum": IMAGES_MAX,
                "default": 1,
            },
            "num_inference_steps": {
                "type": "integer",
                "description": "Denoising steps: more take longer and look better, up to a point.",
                "minimum": 1,
                "maximum": STEPS_MAX,
                "default": 30,
            },
            "guidance_scale": {
                "type": "number",
                "description": "How closely to follow the prompt.",
                "minimum": 0,
                "maximum": 50,
                "default": 7.5,
            },
            "seed": {
                "type": ["integer", "null"],
                "description": "The same seed and input give the same picture; null draws one.",
                "minimum": 0,
                "maximum": SEED_MAX,
                "default": None,
            },
            "output_format": {
                "type": "string",
                "description": "File format of the pictures.",
                "enum": ["png", "jpeg", "webp"],
                "default": "png",
            },
            "preview_every": {
                "type": "integer",
                "description": "Send a small preview every so many steps; 0 sends none.",
                "minimum": 0,
                "maximum": STEPS_MAX,
                "default": 0,
            },
        }
        return properties


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
    negative_prompt=False,
    defaults={"guidance_scale": 3.5},
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in (SD, SDXL, FLUX)}


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
