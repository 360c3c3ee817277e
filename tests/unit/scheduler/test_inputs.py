"""Inputs against a model's schema: what is wrong is said by path, what is missing is filled in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.scheduler.inputs import (
    VALUES_SEARCHED_MAX,
    VIOLATIONS_MAX,
    InputSchema,
    canonical,
)
from quickthaw.scheduler.work_units import work_units
from quickthaw.wire import errors, limits
from quickthaw.wire.strict_json import VALUES_MAX
from support.schedulers import SCHEMA

HALF = ", half a character: send both halves, or neither"
TINY = InputSchema(json.dumps(SCHEMA))


def violations(input_json: str, schema: InputSchema = TINY) -> dict[str, str]:
    with pytest.raises(errors.InvalidInput) as caught:
        schema.complete(input_json)
    return {each.field: each.description for each in caught.value.violations}


def schema_of(**properties: object) -> InputSchema:
    return InputSchema(json.dumps({"type": "object", "properties": properties}))


def test_defaults_are_filled_in_at_every_depth() -> None:
    assert TINY.complete('{"prompt": "x", "image_size": {"width": 128}}') == {
        "prompt": "x",
        "num_images": 1,
        "image_size": {"width": 128, "height": 64},
    }


def test_defaults_reach_into_arrays_and_through_references() -> None:
    schema = InputSchema(
        json.dumps(
            {
                "type": "object",
                "$defs": {"lora": {"type": "object", "properties": {"scale": {"default": 1.0}}}},
                "properties": {"loras": {"type": "array", "items": {"$ref": "#/$defs/lora"}}},
            }
        )
    )
    assert schema.complete('{"loras": [{}, {"scale": 2}]}') == {
        "loras": [{"scale": 1.0}, {"scale": 2}]
    }


@pytest.mark.parametrize(
    ("input_json", "field", "words"),
    [
        ("{}", "input.prompt", "is required"),
        ('{"prompt": 5}', "input.prompt", "must be of type string, not number"),
        (
            json.dumps({"prompt": "x" * 201}),
            "input.prompt",
            "must be at most 200 characters long, not 201",
        ),
        ('{"prompt": "x", "num_images": 9}', "input.num_images", "must be at most 4, not 9"),
        ('{"prompt": "x", "num_images": 0}', "input.num_images", "must be at least 1, not 0"),
        (
            '{"prompt": "x", "image_size": {"width": 4096}}',
            "input.image_size.width",
            "must be at most 1024, not 4096",
        ),
        (
            '{"prompt": "x", "image_size": {"depth": 1}}',
            "input.image_size.depth",
            "is not an argument",
        ),
        (
            '{"prompt": "x", "promt": "y"}',
            "input.promt",
            "is not an argument; known are image_size, num_images, prompt",
        ),
        ("[]", "input", "must be a JSON object, not array"),
        ('{"prompt": NaN}', "input", "is not JSON: NaN is no JSON number"),
        ('{"prompt": 1e999}', "input", "is not JSON: 1e999 is larger than any number"),
        ('{"prompt": "a\\ud83d"}', "input.prompt", r"holds \ud83d alone" + HALF),
        ('{"num_images": ["\\uDCFF"]}', "input.num_images", r"holds \udcff alone" + HALF),
        ('{"\\udcff": 1}', "input.?", r"holds \udcff alone" + HALF),
    ],
)
def test_a_wrong_input_is_told_by_its_path(input_json: str, field: str, words: str) -> None:
    assert violations(input_json) == {field: words}


def test_a_character_that_json_writes_as_two_escapes_is_text_like_any_other() -> None:
    assert TINY.complete('{"prompt": "\\ud83d\\ude00 \\\\ud83d"}')["prompt"] == "😀 \\ud83d"


def test_every_violation_is_told_at_once() -> None:
    found = violations('{"num_images": 9, "image_size": {"width": 1, "height": 2000}}')
    assert set(found) == {
        "input.prompt",
        "input.num_images",
        "input.image_size.width",
        "input.image_size.height",
    }


def test_a_flood_of_violations_is_cut() -> None:
    many = {f"argument_{number}": 1 for number in range(500)}
    assert len(violations(json.dumps({"prompt": "x", **many}))) == VIOLATIONS_MAX


def test_text_that_is_no_json_says_where() -> None:
    assert "line 1 column" in violations("{prompt: x}")["input"]


def test_a_deeply_nested_input_is_refused_and_not_a_crash() -> None:
    assert "nested" in violations('{"prompt":' + "[" * 40_000)["input"]
    # Python's parser goes deeper than the validator.
    assert "cannot be checked" in violations('{"prompt":' + "[" * 500 + "]" * 500 + "}")["input"]


def test_of_many_values_the_first_thing_that_is_wrong_is_told() -> None:
    """To find them all takes the validator seconds, in which nobody else is served."""
    many = "[" + "[]," * VALUES_SEARCHED_MAX + "[]]"
    assert len(violations(f'{{"prompt": {many}, "num_images": {many}}}')) == 1


def test_an_input_of_more_values_than_any_is_refused() -> None:
    many = "[" + "0," * VALUES_MAX + "0]"
    found = violations(f'{{"prompt": "x", "more": {many}}}', schema_of(prompt={}, more={}))
    assert found == {"input": f"holds more than {VALUES_MAX} values; pass large data by URL"}


def test_an_input_over_the_limit_is_too_large() -> None:
    with pytest.raises(errors.MessageTooLarge, match=str(limits.INPUT_BYTES_MAX)):
        TINY.complete(json.dumps({"prompt": "x" * limits.INPUT_BYTES_MAX}))


def test_an_alternative_says_why_each_way_does_not_fit() -> None:
    size = {"anyOf": [{"enum": ["square"]}, {"type": "object", "required": ["width"]}]}
    told = violations('{"image_size": "round"}', schema_of(image_size=size))["input.image_size"]
    assert '["square"]' in told
    assert "must be of type object, not string" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (10, "must be 9 or 13, the nearest of what the model takes, not 10"),
        (400, "must be 257, the nearest of what the model takes, not 400"),
        (-3, "must be 1, the nearest of what the model takes, not -3"),
    ],
)
def test_of_many_numbers_the_nearest_are_named(given: int, told: str) -> None:
    frames = schema_of(num_frames={"type": "integer", "enum": [*range(1, 258, 4)]})
    assert violations(json.dumps({"num_frames": given}), frames)["input.num_frames"] == told


def test_a_reference_to_elsewhere_is_refused_and_never_fetched() -> None:
    with pytest.raises(errors.InvalidArgument, match="input schema"):
        schema_of(x={"$ref": "http://127.0.0.1:9/schema.json"})


def test_a_pattern_cannot_take_exponential_time() -> None:
    schema = schema_of(x={"type": "string", "pattern": "^(a+)+$"})
    assert "input.x" in violations(json.dumps({"x": "a" * 5_000 + "!"}), schema)


@pytest.mark.parametrize(
    "schema_json", ["", "[]", '{"type": "string"}', '{"type": "object", "required": 5}']
)
def test_a_schema_that_is_none_is_refused(schema_json: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        InputSchema(schema_json)
    assert caught.value.violations[0].field == "model.input_schema_json"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_object_is_either_completed_or_refused_with_reasons(value: dict[str, Any]) -> None:
    completed, error = attempt(value)
    if error is not None:
        assert error.violations
        assert all(each.field.startswith("input") for each in error.violations)
    else:
        # What was accepted is accepted again, unchanged.
        assert TINY.complete(canonical(completed)) == completed


def attempt(value: dict[str, Any]) -> tuple[dict[str, Any], errors.InvalidInput | None]:
    try:
        return TINY.complete(json.dumps(value)), None
    except errors.InvalidInput as error:
        return {}, error


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_canonical_text_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical(value) == canonical(turned)
    assert canonical(value).isascii()


@pytest.mark.parametrize(
    ("completed", "units"),
    [
        ({}, 1.0),
        ({"num_inference_steps": 20}, 20.0),
        ({"num_inference_steps": 4, "num_images": 2, "width": 1000, "height": 500}, 4.0),
        ({"image_size": {"width": 1000, "height": 1000}, "num_images": 3}, 3.0),
        ({"image_size": "square"}, 512 * 512 / 1e6),
        ({"image_size": "1000x2000"}, 2.0),
        ({"image_size": "huge"}, 1.0),
        ({"steps": "many"}, 1.0),
        ({"num_frames": 81, "num_inference_steps": 10, "width": 1000, "height": 500}, 405.0),
        ({"num_inference_steps": 8, "image_url": "a", "image_urls": ["b", "c"]}, 16.0),
        ({"seconds_total": 30, "num_inference_steps": 100}, 100.0),
    ],
)
def test_work_units_are_steps_by_megapixels_by_images_by_frames(
    completed: dict[str, Any], units: float
) -> None:
    assert work_units(completed) == pytest.approx(units)
