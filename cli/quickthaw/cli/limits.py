"""What a model's input schema allows, in the spelling that the command line reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence

from quickthaw.client import JsonValue

STEPS_MIN = 5
"""Allowed numbers from here on are told by their step."""


def spell(value: JsonValue) -> str:
    """A value as it would follow `name=`: text without quotes, a size as WIDTHxHEIGHT."""
    match value:
        case str() if value:
            return value
        case {"width": int(width), "height": int(height), **rest} if not rest:
            return f"{width}x{height}"
        case _:
            return json.dumps(value, ensure_ascii=False)


def limits(rule: Mapping[str, JsonValue]) -> str:
    """`1 to 8`, `png, jpeg or webp`, `to 4096 characters`; empty where there are none."""
    for each in (rule, *_choices(rule)):
        if text := _own_limits(each):
            return text
    return ""


def _choices(rule: Mapping[str, JsonValue]) -> Sequence[Mapping[str, JsonValue]]:
    found: list[Mapping[str, JsonValue]] = []
    for name in ("anyOf", "oneOf"):
        choices = rule.get(name)
        if isinstance(choices, list):
            found += [each for each in choices if isinstance(each, Mapping)]
    return found


def _own_limits(rule: Mapping[str, JsonValue]) -> str:
    allowed = rule.get("enum")
    if isinstance(allowed, list) and allowed:
        if even := _even_step(allowed):
            return f"{allowed[0]} to {allowed[-1]}, in steps of {even}"
        *most, last = (spell(each) for each in allowed)
        return f"{', '.join(most)} or {last}" if most else last
    properties = rule.get("properties")
    if isinstance(properties, Mapping):
        sides = [properties.get(name) for name in ("width", "height")]
        texts = [_own_limits(side) for side in sides if isinstance(side, Mapping)]
        if len(texts) == 2 and all(texts):
            return f"each {texts[0]}" if texts[0] == texts[1] else f"{texts[0]} x {texts[1]}"
    if "maxLength" in rule:
        return f"to {rule['maxLength']} characters"
    text = _span(rule.get("minimum"), rule.get("maximum"))
    return f"{text}, in steps of {step}" if (step := rule.get("multipleOf")) and text else text


def _even_step(allowed: Sequence[JsonValue]) -> int:
    """Between many whole numbers that lie evenly; 0 for any others."""
    numbers = [each for each in allowed if type(each) is int]
    if len(numbers) < max(len(allowed), STEPS_MIN):
        return 0
    apart = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    return max(apart.pop(), 0) if len(apart) == 1 else 0


def _span(low: JsonValue, high: JsonValue) -> str:
    if low is None or high is None:
        return f"at least {low}" if low is not None else f"to {high}" if high is not None else ""
    return f"{low} to {high}"
