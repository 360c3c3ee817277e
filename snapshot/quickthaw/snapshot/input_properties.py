"""The inputs that each kind of output takes, as JSON Schema properties."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from quickthaw.snapshot.fields import JsonValue

Properties: TypeAlias = dict[str, dict[str, JsonValue]]

IMAGES_MAX = 8
SEED_MAX = (1 << 64) - 1
STEPS_MAX = 500
PROMPT_CHARS_MAX = 4096
PICTURE_CHARS_MAX = 1 << 20
"""Small pictures may be inside the input, which is bounded as a whole."""
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


def image_properties(
    size: SizeRule, *, negative_prompt: bool, from_picture: bool = False
) -> Properties:
    """Of pictures from a text; `from_picture`: that may begin with a picture."""
    return {
        "prompt": _prompt("What the picture shows."),
        **(_negative_prompt("picture") if negative_prompt else {}),
        **(_picture_properties() if from_picture else {}),
        "image_size": _image_size(size),
        "num_images": _integer("Pictures to draw; each takes the next seed.", 1, IMAGES_MAX, 1),
        "num_inference_steps": _steps(30),
        "guidance_scale": _guidance("How closely to follow the prompt.", 7.5),
        "seed": _seed("picture"),
        "output_format": _choice("File format of the pictures.", "png", "jpeg", "webp"),
        "preview_every": _preview_every("a small preview"),
    }


def _picture_properties() -> Properties:
    return {
        "image_url": _picture("A picture to begin with: an HTTP or data URL."),
        "mask_url": _picture(
            "Which part of that picture is drawn anew: white is, black stays as it is."
        ),
        "strength": _number("How much of the picture is drawn anew: 1 is all of it.", 0.01, 1, 0.8),
    }


def _picture(description: str) -> dict[str, JsonValue]:
    return {"type": "string", "description": description, "maxLength": PICTURE_CHARS_MAX}


def video_properties(size: SizeRule, frames: FrameRule, *, negative_prompt: bool) -> Properties:
    """Of a video from a text."""
    return {
        "prompt": _prompt("What the video shows."),
        **(_negative_prompt("video") if negative_prompt else {}),
        **_film_properties(size, frames),
        "num_inference_steps": _steps(50),
        "guidance_scale": _guidance("How closely to follow the prompt.", 5.0),
    }


def motion_properties(size: SizeRule, frames: FrameRule) -> Properties:
    """Of a video that sets a picture in motion."""
    return {
        "image_url": {
            **_picture("The first picture of the video: an HTTP or data URL."),
            "minLength": 1,
        },
        **_film_properties(size, frames),
        "motion_bucket_id": _integer("How much moves: more is more.", 1, 255, 127),
        "noise_aug_strength": _number(
            "How freely the video may depart from the picture.", 0, 1, 0.02
        ),
        "num_inference_steps": _steps(25),
        "min_guidance_scale": _guidance("How closely the first frame follows the picture.", 1.0),
        "max_guidance_scale": _guidance("How closely the last frame follows the picture.", 3.0),
    }


def _film_properties(size: SizeRule, frames: FrameRule) -> Properties:
    return {
        "image_size": _image_size(size),
        "num_frames": _num_frames(frames),
        "fps": _integer("Pictures a second.", 1, FPS_MAX, frames.fps),
        "seed": _seed("video"),
        "output_format": _choice("File format of the video.", "mp4", "webm"),
        "preview_every": _preview_every("a few frames, small and moving,"),
    }


def _num_frames(frames: FrameRule) -> dict[str, JsonValue]:
    rule = _integer("Pictures in the video.", 1, FRAMES_MAX, frames.default)
    if frames.step == 1:
        return rule
    # JSON Schema has no word for one more than a multiple.
    fitting: list[JsonValue] = [*range(1, FRAMES_MAX + 1, frames.step)]
    told = f"Pictures in the video: one more than a multiple of {frames.step}."
    return {**rule, "description": told, "enum": fitting}


def audio_properties(seconds_max: float) -> Properties:
    """Of sound from a text, in pieces of `seconds_max`."""
    return {
        "prompt": _prompt("What is heard."),
        **_negative_prompt("sound"),
        "seconds_start": _number("Where in the piece the sound begins.", 0, seconds_max, 0),
        "seconds_total": _number(
            "How long it lasts.", SECONDS_MIN, seconds_max, min(30, seconds_max)
        ),
        "num_inference_steps": _steps(100),
        "guidance_scale": _guidance("How closely to follow the prompt.", 7.0),
        "seed": _seed("sound"),
        "output_format": _choice("File format of the sound.", "wav", "flac"),
    }


def _prompt(description: str) -> dict[str, JsonValue]:
    return {
        "type": "string",
        "description": description,
        "minLength": 1,
        "maxLength": PROMPT_CHARS_MAX,
    }


def _negative_prompt(what: str) -> Properties:
    return {
        "negative_prompt": {
            "type": "string",
            "description": f"What the {what} must not "
            f"{'have' if what == 'sound' else 'show'}; works with guidance_scale over 1.",
            "maxLength": PROMPT_CHARS_MAX,
            "default": "",
        }
    }


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
