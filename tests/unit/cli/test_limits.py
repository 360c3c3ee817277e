"""A model's input schema in the command line's own spelling."""

import pytest

from quickthaw.cli.limits import limits, spell
from quickthaw.client import JsonObject, JsonValue

SIDE = {"type": "integer", "minimum": 16, "maximum": 128, "multipleOf": 8}


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"minimum": 1, "maximum": 8}, "1 to 8"),
        ({"minimum": 0}, "at least 0"),
        ({"enum": ["png", "jpeg", "webp"]}, "png, jpeg or webp"),
        ({"enum": ["png"]}, "png"),
        ({"enum": [1, 5, 9, 13, 17, 21]}, "1 to 21, in steps of 4"),
        ({"enum": [1, 5, 9]}, "1, 5 or 9"),
        ({"enum": [1, 2, 4, 8, 16, 32]}, "1, 2, 4, 8, 16 or 32"),
        ({"maxLength": 4096}, "to 4096 characters"),
        ({"properties": {"width": SIDE, "height": SIDE}}, "each 16 to 128, in steps of 8"),
        ({"anyOf": [{"type": "null"}, {"minimum": 0, "maximum": 9}]}, "0 to 9"),
        ({"type": "boolean"}, ""),
    ],
)
def test_limits_are_told_in_words(rule: JsonObject, text: str) -> None:
    assert limits(rule) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("png", "png"),
        ("", '""'),
        ({"width": 64, "height": 32}, "64x32"),
        ({"width": 64, "height": 32, "depth": 1}, '{"width": 64, "height": 32, "depth": 1}'),
        (None, "null"),
        (2.0, "2.0"),
    ],
)
def test_a_default_is_spelled_as_one_would_type_it(value: JsonValue, text: str) -> None:
    assert spell(value) == text
