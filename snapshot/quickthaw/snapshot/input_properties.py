"""The inputs that each kind of output takes, as JSON Schema properties."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from quickthaw.snapshot.fields import JsonValue

Properties: TypeAlias = dict[str, dict[str, JsonValue]]

IMAGES_MAX = 8
SEED_MAX = (1 << 64) - 1
STEPS_MAX = 500
PROMPT_CHARS_MAX = 4096
LORAS_MAX = 8
LORA_SCALE_MAX = 4
PICTURE_CHARS_MAX = 1 << 20
"""Small pictures may be inside the input, which is bounded as a whole."""
PICTURES_MAX = 8
"""That one drawing is made after."""
FRAMES_MAX = 257
FPS_MAX = 60
SECONDS_MIN = 0.1
SECONDS_MAX = 512


class Output(StrEnum):
    """What a family makes."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Picture sizes in pixels; each side is a multiple of `multiple_of`."""

    default: int
    """The width, and the height too unless there is another."""
    multiple_of: int
    minimum: int
    maximum: int
    default_height: int | None = None

    @property
    def height(self) -> int:
        return self.default if self.default_height is None else self.default_height


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How many frames a video has: 1 and any multiple of `step`."""

    default: int = 14
    step: int = 1
    fps: int = 7


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model's configuration bounds."""

    size: SizeRule
    frames: FrameRule = FrameRule()
    seconds_max: float = SECONDS_MAX


_ENDING = ("num_inference_steps", "seed", "output_format")
_DRAWN: tuple[str, ...] = (
    "prompt",
    "image_size",
    "num_images",
    "guidance_scale",
    "preview_every",
    *_ENDING,
)
_FILMED: tuple[str, ...] = ("image_size", "num_frames", "fps", "preview_every", *_ENDING)
_HEARD: tuple[str, ...] = ("prompt", "seconds_start", "seconds_total", "guidance_scale", *_ENDING)


def properties_of(output: Output, names: Collection[str], limits: Limits) -> Properties:
    """The inputs with these names, and those of all that make the same, in the order of showing.

    Raises KeyError for a name that there is not.
    """
    match output:
        case Output.IMAGE:
            known, all_take = _of_pictures(limits), _DRAWN
        case Output.VIDEO:
            known, all_take = _of_videos(limits), _FILMED
        case Output.AUDIO:
            known, all_take = _of_sounds(limits), _HEARD
        case _:
            assert_never(output)
    wanted = {*all_take, *names}
    if unknown := wanted - known.keys():
        raise KeyError(min(unknown))
    return {name: rule for name, rule in known.items() if name in wanted}


def _of_pictures(limits: Limits) -> Properties:
    return {
        "prompt": _prompt("What the picture shows."),
        "negative_prompt": _negative_prompt("picture"),
        "image_url": _picture("A picture to begin with: an HTTP or data URL."),
        "image_urls": _pictures(
            "More pictures, in the order in which the prompt speaks of them; the first of all of "
            "them is image_url if that is given."
        ),
        "mask_url": _picture(
            "Which part of that picture is drawn anew: white is, black stays as it is."
        ),
        "strength": _number("How much of the picture is drawn anew: 1 is all of it.", 0.01, 1, 0.8),
        "loras": _loras(),
        "image_size": _image_size(limits.size),
        "num_images": _integer("Pictures to draw; each takes the next seed.", 1, IMAGES_MAX, 1),
        "num_inference_steps": _steps(30),
        "guidance_scale": _guidance("How closely to follow the prompt.", 7.5),
        "seed": _seed("picture"),
        "output_format": _choice("File format of the pictures.", "png", "jpeg", "webp"),
        "preview_every": _preview_every("a small preview"),
    }


def _of_videos(limits: Limits) -> Properties:
    return {
        "prompt": _prompt("What the video shows."),
        "negative_prompt": _negative_prompt("video"),
        "image_url": _picture("The first picture of the video: an HTTP or data URL."),
        "end_image_url": _picture("The last picture of the video: an HTTP or data URL."),
        "image_size": _image_size(limits.size),
        "num_frames": _num_frames(limits.frames),
        "fps": _integer("Pictures a second.", 1, FPS_MAX, limits.frames.fps),
        "motion_bucket_id": _integer("How much moves: more is more.", 1, 255, 127),
        "noise_aug_strength": _number(
            "How freely the video may depart from the picture.", 0, 1, 0.02
        ),
        "num_inference_steps": _steps(50),
        "guidance_scale": _guidance("How closely to follow the prompt.", 5.0),
        "min_guidance_scale": _guidance("How closely the first frame follows the picture.", 1.0),
        "max_guidance_scale": _guidance("How closely the last frame follows the picture.", 3.0),
        "seed": _seed("video"),
        "output_format": _choice("File format of the video.", "mp4", "webm"),
        "preview_every": _preview_every("a few frames, small and moving,"),
    }


def _of_sounds(limits: Limits) -> Properties:
    """In pieces of `seconds_max`."""
    longest = limits.seconds_max
    return {
        "prompt": _prompt("What is heard."),
        "negative_prompt": _negative_prompt("sound"),
        "seconds_start": _number("Where in the piece the sound begins.", 0, longest, 0),
        "seconds_total": _number("How long it lasts.", SECONDS_MIN, longest, min(30, longest)),
        "num_inference_steps": _steps(100),
        "guidance_scale": _guidance("How closely to follow the prompt.", 7.0),
        "seed": _seed("sound"),
        "output_format": _choice("File format of the sound.", "wav", "flac"),
    }


def _prompt(description: str) -> dict[str, JsonValue]:
    return _text(description, PROMPT_CHARS_MAX)


def _negative_prompt(what: str) -> dict[str, JsonValue]:
    verb = "have" if what == "sound" else "show"
    told = f"What the {what} must not {verb}; works with guidance_scale over 1."
    return _text(told, PROMPT_CHARS_MAX)


def _loras() -> dict[str, JsonValue]:
    """As fal has them; without a default, so that most inputs say nothing of them."""
    scale = _number("How strongly it acts.", -LORA_SCALE_MAX, LORA_SCALE_MAX, 1.0)
    where = "A LoRA: the URL of its safetensors file, or the id of a model that is one."
    return {
        "type": "array",
        "description": "LoRAs to draw with, laid over the model one after the other.",
        "maxItems": LORAS_MAX,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["path"],
            "properties": {"path": {**_picture(where), "minLength": 1}, "scale": scale},
        },
    }


def _picture(description: str) -> dict[str, JsonValue]:
    rule = _text(description, PICTURE_CHARS_MAX)
    del rule["default"]  # None, which is not the same as an empty address.
    return rule


def _pictures(description: str) -> dict[str, JsonValue]:
    """Without a default, so that most inputs say nothing of them."""
    return {
        "type": "array",
        "description": description,
        "maxItems": PICTURES_MAX,
        "items": {**_picture("An HTTP or data URL."), "minLength": 1},
    }


def _text(description: str, chars_max: int) -> dict[str, JsonValue]:
    return {"type": "string", "description": description, "maxLength": chars_max, "default": ""}


def _num_frames(frames: FrameRule) -> dict[str, JsonValue]:
    rule = _integer("Pictures in the video.", 1, FRAMES_MAX, frames.default)
    if frames.step == 1:
        return rule
    # JSON Schema has no word for one more than a multiple.
    fitting: list[JsonValue] = [*range(1, FRAMES_MAX + 1, frames.step)]
    told = f"Pictures in the video: one more than a multiple of {frames.step}."
    return {**rule, "description": told, "enum": fitting}


def _image_size(size: SizeRule) -> dict[str, JsonValue]:
    side: dict[str, JsonValue] = {
        "type": "integer",
        "minimum": size.minimum,
        "maximum": size.maximum,
        "multipleOf": size.multiple_of,
    }
    return {
        "type": "object",
        "description": "Width and height in pixels.",
        "additionalProperties": False,
        "required": ["width", "height"],
        "properties": {"width": {**side}, "height": {**side}},
        "default": {"width": size.default, "height": size.height},
    }


def _steps(default: int) -> dict[str, JsonValue]:
    description = "Denoising steps: more take longer and look better, up to a point."
    return _integer(description, 1, STEPS_MAX, default)


def _guidance(description: str, default: float) -> dict[str, JsonValue]:
    return _number(description, 0, 50, default)


def _preview_every(what: str) -> dict[str, JsonValue]:
    description = f"Send {what} every so many steps, the first after the first; 0 sends none."
    return _integer(description, 0, STEPS_MAX, 0)


def _seed(what: str) -> dict[str, JsonValue]:
    return {
        "type": ["integer", "null"],
        "description": f"The same seed and input give the same {what}; null draws one.",
        "minimum": 0,
        "maximum": SEED_MAX,
        "default": None,
    }


def _choice(description: str, default: str, *others: str) -> dict[str, JsonValue]:
    return {
        "type": "string",
        "description": description,
        "enum": [default, *others],
        "default": default,
    }


def _integer(description: str, minimum: int, maximum: int, default: int) -> dict[str, JsonValue]:
    return {
        "type": "integer",
        "description": description,
        "minimum": minimum,
        "maximum": maximum,
        "default": default,
    }


def _number(
    description: str, minimum: float, maximum: float, default: float
) -> dict[str, JsonValue]:
    return {**_integer(description, 0, 0, 0), "type": "number"} | {
        "minimum": minimum,
        "maximum": maximum,
        "default": default,
    }
