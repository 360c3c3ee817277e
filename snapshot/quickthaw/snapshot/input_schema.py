"""What a manifest's input schema may say.

It is JSON Schema, which can loop, fetch and backtrack; and it is what keeps a request from asking
for a picture or a number of steps without end.
"""

from __future__ import annotations

from collections.abc import Mapping

from quickthaw.snapshot.fields import DEPTH_MAX, LIST_ITEMS_MAX, JsonValue
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.input_properties import (
    FRAMES_MAX,
    IMAGES_MAX,
    LORAS_MAX,
    PICTURES_MAX,
    PROMPT_CHARS_MAX,
    SECONDS_MAX,
    STEPS_MAX,
)

PROPERTIES_MAX = 256
REFUSED = frozenset(
    {
        *("$ref", "$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor"),
        *("$recursiveAnchor", "$vocabulary", "pattern", "patternProperties"),
    }
)
"""Keywords that lead elsewhere, in circles, or to regular expressions. Inputs are flat and small;
whoever reads the schema need not be able to deal with these."""
SIDE_MAX = 16_384
"""Pixels, twice what the largest models there are draw."""
_BOUNDS: Mapping[str, tuple[str, float]] = {
    "prompt": ("maxLength", PROMPT_CHARS_MAX),
    "negative_prompt": ("maxLength", PROMPT_CHARS_MAX),
    "num_images": ("maximum", IMAGES_MAX),
    "num_inference_steps": ("maximum", STEPS_MAX),
    "preview_every": ("maximum", STEPS_MAX),
    "num_frames": ("maximum", FRAMES_MAX),
    "seconds_start": ("maximum", SECONDS_MAX),
    "seconds_total": ("maximum", SECONDS_MAX),
    "loras": ("maxItems", LORAS_MAX),
    "image_urls": ("maxItems", PICTURES_MAX),
    "width": ("maximum", SIDE_MAX),
    "height": ("maximum", SIDE_MAX),
}
"""What an input costs grows with it, so its rule must have that keyword, no higher than that."""
_KINDS: Mapping[str, tuple[str, ...]] = {
    "maxLength": ("string",),
    "maxItems": ("array",),
    "maximum": ("integer", "number"),
}
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def check_input_schema(schema: dict[str, JsonValue], where: str) -> dict[str, JsonValue]:
    """The same schema; raises `SnapshotInvalid` if it is none for an object of plain settings."""
    if schema.get("$schema", _DRAFT) != _DRAFT:
        invalid(Problem.MANIFEST, f"{where}.$schema", f"must be {_DRAFT}")
    if schema.get("type", "object") != "object":
        invalid(Problem.MANIFEST, f"{where}.type", "must be object")
    _check(schema, where, 0)
    _check_inputs(schema, where)
    return schema


def _check_inputs(schema: dict[str, JsonValue], where: str) -> None:
    if schema.get("additionalProperties") is not False:
        invalid(Problem.MANIFEST, f"{where}.additionalProperties", "must be false")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or len(properties) > PROPERTIES_MAX:
        invalid(Problem.MANIFEST, f"{where}.properties", f"must be at most {PROPERTIES_MAX} rules")
    for name, rule in properties.items():
        place = f"{where}.properties.{name}"
        if not isinstance(rule, dict):
            invalid(Problem.MANIFEST, place, "must be an object")
        if name == "image_size":
            _check_inputs(rule, place)
        if name in _BOUNDS:
            keyword, maximum = _BOUNDS[name]
            found = rule.get(keyword)
            kinds = _KINDS[keyword]
            if rule.get("type") not in kinds or not _is_at_most(found, maximum):
                wanted = f"must be of type {' or '.join(kinds)}, its {keyword} at most {maximum}"
                invalid(Problem.MANIFEST, place, wanted)


def _is_at_most(value: JsonValue, maximum: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= maximum


def _check(value: JsonValue, where: str, depth: int, *, names: bool = False) -> None:
    """`names`: whether the keys are names of inputs rather than keywords."""
    if depth > DEPTH_MAX:
        invalid(Problem.MANIFEST, where, f"is nested deeper than {DEPTH_MAX}")
    match value:
        case dict():
            for key, item in value.items():
                if key in REFUSED and not names:
                    invalid(Problem.UNSAFE, f"{where}.{key}", "is not allowed in an input schema")
                inputs = key == "properties" and not names
                _check(item, f"{where}.{key}", depth + 1, names=inputs)
        case list():
            if len(value) > LIST_ITEMS_MAX:
                invalid(Problem.MANIFEST, where, f"has more than {LIST_ITEMS_MAX} items")
            for item in value:
                _check(item, where, depth + 1)
        case _:
            pass
