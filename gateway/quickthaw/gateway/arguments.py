"""Arguments as callers of every dialect give them, turned into the input of a model of ours.

The platform's models use fal's names, so that little is left to translate: picture sizes by name,
explicit nulls, arguments that a model does not have (fal ignores them), inputs by their other
names, numbers that came as texts, and `sync_mode`, which is about the answer and not about the
picture.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.schemas import schema_properties

PRESETS: Final[Mapping[str, tuple[int, int]]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
"""Width and height in pixels, as fal's documentation has them."""

OTHER_NAMES: Final[Mapping[str, str]] = {
    "format": "output_format",
    "image_format": "output_format",
    "steps": "num_inference_steps",
    "cond_aug": "noise_aug_strength",
    "start_image_url": "image_url",
    "input_image": "image_url",
    "image": "image_url",
    "mask": "mask_url",
    "last_image_url": "end_image_url",
}
"""What some of fal's endpoints and of Replicate's models call an input, and what it is called
here."""

SIDE_DEFAULT: Final = 512
SIZE_NAMES: Final = ("image_size", "video_size")
_INPUT_ECHO_CHARS_MAX = 200
_NUMBER_CHARS_MAX = 40
_SEVERAL: Final = ("image_urls", "input_images", "images", "image_input", "image")
_ONE_LORA: Final = ("lora_weights", "hf_lora", "lora_url")


@dataclass(frozen=True, slots=True)
class ModelInput:
    input: JsonObject
    sync_mode: bool
    """Answer with data: URIs in place of links."""


def translate_arguments(arguments: JsonObject, schema: Mapping[str, Json]) -> ModelInput:
    """`schema` is the model's input schema. Raises HttpError 422 for a size with no meaning."""
    properties = schema_properties(schema)
    given: JsonObject = {name: value for name, value in arguments.items() if value is not None}
    sync_mode = given.get("sync_mode") is True
    for name in SIZE_NAMES:
        if name in given:
            given |= _size(name, given.pop(name), properties)
    given = _first_of_several(given, properties)
    for other, name in OTHER_NAMES.items():
        if name in properties and other not in properties and other in given:
            given.setdefault(name, given[other])
    if "loras" in properties:
        given = _lora_of_one(given)
    if schema.get("additionalProperties", False) is False and properties:
        given = {name: value for name, value in given.items() if name in properties}
    given = {name: _read(value, properties.get(name)) for name, value in given.items()}
    return ModelInput(given, sync_mode)


def _read(value: Json, rule: Json) -> Json:
    """A number or a switch that came as a text, as forms send them and some of fal's endpoints want
    them (`num_inference_steps` is `"4"`), where the model takes no text. What is none stays, and
    the platform says what is wrong with it."""
    if not isinstance(value, (str, dict)) or not isinstance(rule, Mapping):
        return value
    if isinstance(value, dict):
        inner = schema_properties(rule)
        return {name: _read(each, inner.get(name)) for name, each in value.items()}
    kinds = rule.get("type", "string")
    if "string" in (kinds if isinstance(kinds, list) else [kinds]):
        return value
    if len(value) <= _NUMBER_CHARS_MAX:
        with contextlib.suppress(ValueError, RecursionError):
            read = cast("Json", json.loads(value))
            if isinstance(read, (int, float)) and math.isfinite(read):
                return read
    return value


def _first_of_several(given: JsonObject, properties: Mapping[str, Json]) -> JsonObject:
    """Several pictures in one argument: the first is known by a name of its own here."""
    name = next((each for each in _SEVERAL if isinstance(given.get(each), list)), None)
    if name is None or "image_url" not in properties:
        return given
    urls = cast("list[Json]", given[name])
    rest = {key: value for key, value in given.items() if key != name}
    if urls and not rest.get("image_url"):
        rest["image_url"], *urls = urls
    if urls and "image_urls" not in properties:
        text = "This model takes one picture"
        item: dict[str, object] = {"loc": ["body", name], "msg": text, "type": "sequence_too_long"}
        raise HttpError(422, [item])
    return {**rest, "image_urls": urls} if urls else rest


def _lora_of_one(given: JsonObject) -> JsonObject:
    """Replicate's models name one LoRA by an argument of its own; some call it otherwise."""
    named = next((name for name in _ONE_LORA if isinstance(given.get(name), str)), None)
    if named is None or "loras" in given or not given[named]:
        return given
    item: JsonObject = {"path": given[named]}
    if "lora_scale" in given:
        item["scale"] = given["lora_scale"]
    rest = {name: value for name, value in given.items() if name not in (*_ONE_LORA, "lora_scale")}
    return {**rest, "loras": [item]}


def with_previews(input_: JsonObject, schema: Mapping[str, Json], previews: int) -> JsonObject:
    """Asks for about `previews` of them over the run, unless the caller said how many."""
    properties = schema_properties(schema)
    if "preview_every" not in properties or "preview_every" in input_:
        return input_
    steps = input_.get("num_inference_steps", _default(properties, "num_inference_steps"))
    every = max(1, steps // previews) if isinstance(steps, int) else 1
    return {**input_, "preview_every": every}


def _default(properties: Mapping[str, Json], name: str) -> Json:
    declared = properties.get(name)
    return declared.get("default") if isinstance(declared, Mapping) else None


def _size(name: str, value: Json, properties: Mapping[str, Json]) -> JsonObject:
    """The size as the model takes it: an object, or two arguments of its own."""
    if isinstance(value, str):
        if value not in PRESETS:
            raise _unknown_preset(name, value)
        width, height = PRESETS[value]
        value = {"width": width, "height": height}
    elif isinstance(value, Mapping):
        value = {"width": SIDE_DEFAULT, "height": SIDE_DEFAULT, **value}
    if name in properties or not {"width", "height"} <= properties.keys():
        return {name: value}
    return dict(value) if isinstance(value, Mapping) else {name: value}


def _unknown_preset(name: str, value: str) -> HttpError:
    return HttpError(
        422,
        [
            {
                "loc": ["body", name],
                "msg": f"Input should be one of {', '.join(PRESETS)}, or an object with width and "
                "height in pixels",
                "type": "one_of",
                "ctx": {"expected": list(PRESETS)},
                "input": value[:_INPUT_ECHO_CHARS_MAX],
            }
        ],
    )
