"""How much work an input asks for, so that run times of different inputs can be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from quickthaw.scheduler.core.model import OutputUnits

_OF_ONE = frozenset(
    {"prompt", "negative_prompt", "seed", "output_format", "preview_every", "sync_mode"}
)

_COUNT = ("num_images", "num_outputs")
_SIZE = ("image_size", "width", "height")
_WORK = frozenset(("num_inference_steps", "steps", "num_frames", *_COUNT, *_SIZE))
"""All that `work_units` reads: most inputs that are not for pictures have none of it."""
_OUTPUTS = frozenset((*_COUNT, *_SIZE, "num_frames", "fps", "frames_per_second", "duration"))
_ALONE = ("image_url", "image_urls", "mask_url", "loras")
_ONE_OUTPUT = OutputUnits(images=1)

# The image sizes that public clients name instead of giving pixels.
_NAMED_SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}


def work_units(completed: Mapping[str, Any]) -> float:
    """Steps x megapixels x images x frames of an input with its defaults; what is not there counts
    as 1. Each picture that is looked at beside a first one is half as much again. A sound's length
    does not count: its pieces are made whole and then cut."""
    if _WORK.isdisjoint(completed):
        return 1.0
    steps = _number(completed, "num_inference_steps") or _number(completed, "steps") or 1.0
    images = _number(completed, "num_images") or _number(completed, "num_outputs") or 1.0
    frames = _number(completed, "num_frames") or 1.0
    more = completed.get("image_urls")
    beside = 1.0 + len(more) / 2 if isinstance(more, list) else 1.0
    return steps * images * frames * beside * (_megapixels(completed) or 1.0)


def batch_key(completed: Mapping[str, Any]) -> str:
    """What an input with its defaults must have in common with others to be drawn along with them:
    everything but texts, seed and how its results are delivered. Empty for what has no prompt, or
    begins with a picture or brings LoRAs."""
    if "prompt" not in completed or any(completed.get(name) for name in _ALONE):
        return ""
    common = {name: value for name, value in completed.items() if name not in _OF_ONE}
    return json.dumps(common, sort_keys=True, separators=(",", ":"))


def output_units(completed: Mapping[str, Any]) -> OutputUnits:
    """What an input with its defaults asks for: the images, their pixels, the length of a video.
    Where the input does not say, one image and no more."""
    if _OUTPUTS.isdisjoint(completed):
        return _ONE_OUTPUT
    images = int(_number(completed, "num_images") or _number(completed, "num_outputs") or 1)
    pixels = round((_megapixels(completed) or 0.0) * 1e6)
    frames = _number(completed, "num_frames") or 0.0
    per_second = _number(completed, "fps") or _number(completed, "frames_per_second") or 0.0
    seconds = frames / per_second if per_second else _number(completed, "duration") or 0.0
    return OutputUnits(images, pixels * images, math.ceil(seconds * 1000))


def _megapixels(completed: Mapping[str, Any]) -> float | None:
    size = completed.get("image_size", completed)
    if isinstance(size, str):
        width, height = _NAMED_SIZES.get(size) or _pixels(size) or (0, 0)
        return width * height / 1e6
    if not isinstance(size, Mapping):
        return None
    return (_number(size, "width") or 0.0) * (_number(size, "height") or 0.0) / 1e6


def _pixels(text: str) -> tuple[int, int] | None:
    """From `1024x768`."""
    width, separator, height = text.partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        return None
    return int(width), int(height)


def _number(source: Mapping[str, Any], name: str) -> float | None:
    value = source.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else None
