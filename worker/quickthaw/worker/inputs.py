"""A request's input: checked against the model's own schema, then given types."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import jsonschema_rs

from quickthaw.wire.errors import FieldViolation, InvalidInput, SnapshotInvalid

VIOLATIONS_MAX = 10


@dataclass(frozen=True, slots=True)
class LoraInput:
    """A LoRA that a request brings: see `adapters`."""

    path: str
    scale: float


@dataclass(frozen=True, slots=True)
class PictureUrls:
    """Of a request's pictures, by what they are to it; empty for none."""

    image: str
    mask: str = ""
    end: str = ""
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A request for pictures, complete: defaults are the model's."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_images: int
    num_inference_steps: int
    guidance_scale: float
    seed: int | None
    output_format: str
    preview_every: int
    lora_scale: float = 1.0
    """Of the LoRAs that the model was packed with."""
    loras: tuple[LoraInput, ...] = ()
    """The request's own, laid over the model after those, the first one first."""
    image_url: str = ""
    """Of the picture to begin with; empty for none."""
    more_image_urls: tuple[str, ...] = ()
    """Of those beside it."""
    mask_url: str = ""
    strength: float = 1.0
    """How much of that picture is drawn anew: 1 for all of it."""

    @property
    def pictures(self) -> PictureUrls:
        return PictureUrls(self.image_url, mask=self.mask_url, more=self.more_image_urls)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height; None for what the picture decides."""
        return (self.width, self.height) if self.width else None


@dataclass(frozen=True, slots=True)
class VideoInput:
    """A request for a video, complete. What a family does not take has its default here."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    seed: int | None
    output_format: str
    preview_every: int
    image_url: str = ""
    """Of the picture that is set in motion; empty for none."""
    end_image_url: str = ""
    """Of the picture that it ends with."""
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 3.0

    @property
    def pictures(self) -> PictureUrls:
        return PictureUrls(self.image_url, end=self.end_image_url)

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


@dataclass(frozen=True, slots=True)
class SoundInput:
    """A request for a sound, complete."""

    prompt: str
    negative_prompt: str
    seconds_start: float
    seconds_total: float
    num_inference_steps: int
    guidance_scale: float
    seed: int | None
    output_format: str


RunInput: TypeAlias = ImageInput | VideoInput | SoundInput
Parse: TypeAlias = Callable[[Mapping[str, Any]], RunInput]
"""From complete values that the schema allows, in which 4.0 is a whole number. Raises KeyError for
one that is not there."""


class InputReader:
    """Reads inputs of one model. `schema`: JSON Schema 2020-12 with defaults on its properties.

    `parse` gives them the types of the model's family. Raises SnapshotInvalid for a schema that
    cannot be used.
    """

    def __init__(self, schema: Mapping[str, Any], parse: Parse) -> None:
        self._parse = parse
        properties = cast("dict[str, dict[str, Any]]", schema.get("properties", {}))
        self._defaults = {
            name: rule["default"] for name, rule in properties.items() if "default" in rule
        }
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                dict(schema), retriever=_retrieve_nothing
            )
        except ValueError as error:
            raise SnapshotInvalid(f"the model's input schema is unusable: {error}") from error

    def read(self, input_json: str) -> RunInput:
        """Raises InvalidInput, one violation for each thing that is wrong."""
        try:
            given = json.loads(input_json or "{}")
        except ValueError as error:
            raise InvalidInput(f"input is not JSON: {error}") from error
        if not isinstance(given, dict):
            raise InvalidInput("input must be a JSON object")
        values = {**self._defaults, **cast("dict[str, Any]", given)}
        self._check(values)
        try:
            return self._parse(values)
        except KeyError as error:
            # By its schema the input is right, so what is wrong is the schema.
            raise SnapshotInvalid(
                f"the model's input schema neither requires {error} nor has a default for it; "
                "pack the model again"
            ) from error

    def _check(self, values: dict[str, Any]) -> None:
        violations: list[FieldViolation] = []
        for error in self._validator.iter_errors(values):
            path = ".".join(("input", *(str(part) for part in error.instance_path)))
            violations.append(FieldViolation(path, error.message))
            if len(violations) == VIOLATIONS_MAX:
                break
        if violations:
            told = "; ".join(f"{line.field}: {line.description}" for line in violations)
            raise InvalidInput(
                f"input does not fit the model: {told}", violations=tuple(violations)
            )


def image_input(values: Mapping[str, Any]) -> ImageInput:
    # None: as the picture has it.
    size = values.get("image_size", {}) or {"width": 0, "height": 0}
    urls = [values.get("image_url"), *(values.get("image_urls") or ())]
    image_url, *more = [url for url in urls if url] or [""]
    return ImageInput(
        prompt=values["prompt"],
        negative_prompt=values.get("negative_prompt") or "",
        width=int(size["width"]),
        height=int(size["height"]),
        num_images=int(values.get("num_images", 1)),
        num_inference_steps=int(values["num_inference_steps"]),
        guidance_scale=float(values["guidance_scale"]),
        seed=_seed(values),
        output_format=values.get("output_format", "png"),
        preview_every=int(values.get("preview_every", 0)),
        lora_scale=float(values.get("lora_scale", 1.0)),
        loras=tuple(
            LoraInput(each["path"], float(each.get("scale", 1.0)))
            for each in values.get("loras") or ()
        ),
        image_url=image_url,
        more_image_urls=tuple(more),
        mask_url=values.get("mask_url") or "",
        strength=float(values.get("strength", 1.0)),
    )


def video_input(values: Mapping[str, Any]) -> VideoInput:
    size = values.get("image_size", {})
    return VideoInput(
        prompt=values.get("prompt") or "",
        negative_prompt=values.get("negative_prompt") or "",
        width=int(size["width"]),
        height=int(size["height"]),
        num_frames=int(values["num_frames"]),
        fps=int(values["fps"]),
        num_inference_steps=int(values["num_inference_steps"]),
        guidance_scale=float(values.get("guidance_scale", 1.0)),
        seed=_seed(values),
        output_format=values.get("output_format", "mp4"),
        preview_every=int(values.get("preview_every", 0)),
        image_url=values.get("image_url") or "",
        end_image_url=values.get("end_image_url") or "",
        motion_bucket_id=int(values.get("motion_bucket_id", 127)),
        noise_aug_strength=float(values.get("noise_aug_strength", 0.02)),
        min_guidance_scale=float(values.get("min_guidance_scale", 1.0)),
        max_guidance_scale=float(values.get("max_guidance_scale", 3.0)),
    )


def sound_input(values: Mapping[str, Any]) -> SoundInput:
    return SoundInput(
        prompt=values["prompt"],
        negative_prompt=values.get("negative_prompt") or "",
        seconds_start=float(values.get("seconds_start", 0)),
        seconds_total=float(values["seconds_total"]),
        num_inference_steps=int(values["num_inference_steps"]),
        guidance_scale=float(values["guidance_scale"]),
        seed=_seed(values),
        output_format=values.get("output_format", "wav"),
    )


def _seed(values: Mapping[str, Any]) -> int | None:
    seed = values.get("seed")
    return None if seed is None else int(seed)


def _retrieve_nothing(uri: str) -> Any:
    raise ValueError(f"it refers to {uri}, and schemas must stand alone")
