from __future__ import annotations

from typing import cast

import pytest

from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.violations import schema_violations, stated_violations
from quickthaw.wire.errors import FieldViolation
from support.fake_inference import SCHEMA

MODEL = cast("JsonObject", SCHEMA)


@pytest.mark.parametrize(
    ("name", "value", "kind", "context"),
    [
        ("prompt", 7, "string_type", None),
        ("prompt", "", "string_too_short", {"min_length": 1}),
        ("prompt", "x" * 201, "string_too_long", {"max_length": 200}),
        ("num_images", 0, "greater_than_equal", {"ge": 1}),
        ("num_images", 9, "less_than_equal", {"le": 8}),
        ("num_images", "two", "int_type", None),
        ("num_images", 1.5, "int_type", None),
        ("guidance_scale", 0, "greater_than", {"gt": 0}),
        ("guidance_scale", "much", "float_type", None),
        ("seed", "x", "int_type", None),
        ("image_size", [], "dict_type", None),
        ("output_format", "tiff", "one_of", {"expected": ["png", "jpeg"]}),
    ],
)
def test_a_violation_has_the_kind_and_the_limit_that_clients_know(
    name: str, value: Json, kind: str, context: dict[str, object] | None
) -> None:
    (item,) = schema_violations({"prompt": "x", name: value}, MODEL)
    assert item["loc"] == ["body", name]
    assert item["type"] == kind
    assert item.get("ctx") == context
    assert item["msg"]


def test_a_missing_argument_is_named_where_it_should_be() -> None:
    items = schema_violations({"image_size": {"width": 64}}, MODEL)
    assert [(item["loc"], item["type"]) for item in items] == [
        (["body", "image_size", "height"], "missing"),
        (["body", "prompt"], "missing"),
    ]


def test_a_nested_violation_names_its_path() -> None:
    size: JsonObject = {"width": 65, "height": 64}
    (item,) = schema_violations({"prompt": "x", "image_size": size}, MODEL)
    assert item["loc"] == ["body", "image_size", "width"]
    assert (item["type"], item["ctx"]) == ("multiple_of", {"multiple_of": 8})


def test_large_values_are_not_sent_back() -> None:
    (item,) = schema_violations({"prompt": "x" * 10_000}, MODEL)
    assert "input" not in item
    assert len(str(item["msg"])) < 500


def test_a_schema_beyond_us_finds_nothing() -> None:
    assert schema_violations({}, {"type": "no such type"}) == []


def test_the_platforms_own_violations_are_told_by_path() -> None:
    items = stated_violations([FieldViolation("input.loras[2].scale", "too large")])
    assert items == [
        {"loc": ["body", "loras", 2, "scale"], "msg": "too large", "type": "value_error"}
    ]
