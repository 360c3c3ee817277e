"""What a self-test asks for where nobody said: of every kind of model, something small."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from quickthaw.client import JsonObject, JsonValue, Model

if TYPE_CHECKING:
    from PIL import Image

PLAIN: Mapping[str, JsonValue] = {"prompt": "a red circle above a blue square", "seed": 7}
"""Of what a model takes. The rest is as its defaults have it, so that a picture shows them."""
FRAMES, VIDEO_STEPS = 9, 4
SECONDS, SOUND_STEPS = 4.0, 8
"""At most, of what would otherwise take minutes: enough to see or hear that the weights work."""
_SIDE = 256
_PICTURE, _MASK = "image_url", "mask_url"
"""How the names of inputs end that are pictures."""


def plain_values(model: Model) -> dict[str, JsonValue]:
    """What a self-test asks for, of what the model takes; of pictures only what it must have."""
    takes = _mapping(model.input_schema.get("properties"))
    values = {name: value for name, value in PLAIN.items() if name in takes}
    if "num_frames" in takes:
        values |= _at_most(takes, "num_frames", FRAMES)
        values |= _at_most(takes, "num_inference_steps", VIDEO_STEPS)
        if "preview_every" in takes:
            values["preview_every"] = 1
    if "seconds_total" in takes:
        values |= _at_most(takes, "seconds_total", SECONDS)
        values |= _at_most(takes, "num_inference_steps", SOUND_STEPS)
    for name in _required(model):
        if name.endswith(_PICTURE):
            values[name] = picture()
        elif name.endswith(_MASK):
            values[name] = mask()
    return values


def missing(model: Model, values: Mapping[str, JsonValue]) -> list[str]:
    """Inputs that the model needs and `values` lacks."""
    return [name for name in _required(model) if name not in values]


@cache
def picture() -> str:
    """A red circle above a blue square, as a data URI."""
    from PIL import Image, ImageDraw

    drawn = Image.new("RGB", (_SIDE, _SIDE), "white")
    pencil = ImageDraw.Draw(drawn)
    third = _SIDE // 3
    pencil.ellipse((third, third // 2, 2 * third, 3 * third // 2), fill="red")
    pencil.rectangle((third, 7 * third // 4, 2 * third, 11 * third // 4), fill="blue")
    return _data_uri(drawn)


@cache
def mask() -> str:
    """White on its right half."""
    from PIL import Image

    drawn = Image.new("L", (_SIDE, _SIDE), "black")
    drawn.paste("white", (_SIDE // 2, 0, _SIDE, _SIDE))
    return _data_uri(drawn)


def _data_uri(drawn: Image.Image) -> str:
    content = BytesIO()
    drawn.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _at_most(takes: JsonObject, name: str, most: float) -> dict[str, JsonValue]:
    """The model's own default, or the largest value up to `most` that its rule allows."""
    if name not in takes:
        return {}
    rule = _mapping(takes.get(name))
    default, allowed = rule.get("default"), rule.get("enum")
    if isinstance(default, int | float) and default <= most:
        return {}
    if isinstance(allowed, Sequence):
        fitting = [each for each in allowed if isinstance(each, int | float) and each <= most]
        return {name: max(fitting)} if fitting else {}
    return {name: most}


def _required(model: Model) -> list[str]:
    names = model.input_schema.get("required")
    return [str(name) for name in names] if isinstance(names, list) else []


def _mapping(value: JsonValue) -> JsonObject:
    return value if isinstance(value, Mapping) else {}
