from __future__ import annotations

from typing import cast

import pytest

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.arguments import translate_arguments, with_previews
from quickthaw.gateway.json_text import Json, JsonObject, parse_object, render
from quickthaw.gateway.storage.uploads import PARTS_MAX
from quickthaw.wire.strict_json import VALUES_MAX
from support.fake_inference import SCHEMA

MODEL = cast("JsonObject", SCHEMA)
TWO_SIDES: JsonObject = {
    "additionalProperties": False,
    "properties": {"prompt": {}, "width": {}, "height": {}},
}


@pytest.mark.parametrize(
    ("size", "width", "height"),
    [
        ("square_hd", 1024, 1024),
        ("square", 512, 512),
        ("portrait_4_3", 768, 1024),
        ("portrait_16_9", 576, 1024),
        ("landscape_4_3", 1024, 768),
        ("landscape_16_9", 1024, 576),
        ({"width": 640}, 640, 512),
        ({}, 512, 512),
    ],
)
def test_a_size_by_name_becomes_pixels(size: JsonObject | str, width: int, height: int) -> None:
    translated = translate_arguments({"image_size": size}, MODEL)
    assert translated.input == {"image_size": {"width": width, "height": height}}
    flat = translate_arguments({"image_size": size}, TWO_SIDES)
    assert flat.input == {"width": width, "height": height}


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(HttpError) as caught:
        translate_arguments({"image_size": "banana"}, MODEL)
    answer = caught.value.answer
    assert answer.status == 422
    assert not isinstance(answer.detail, str)
    assert answer.detail[0]["loc"] == ["body", "image_size"]
    assert answer.detail[0]["type"] == "one_of"


def test_a_size_of_another_type_is_left_for_the_schema_to_refuse() -> None:
    assert translate_arguments({"image_size": 7}, MODEL).input == {"image_size": 7}


def test_arguments_that_the_model_lacks_and_nulls_are_dropped() -> None:
    arguments: JsonObject = {"prompt": "x", "enable_safety_checker": True, "seed": None}
    assert translate_arguments(arguments, MODEL).input == {"prompt": "x"}


def test_a_model_that_takes_anything_gets_everything() -> None:
    schema: JsonObject = {"additionalProperties": True, "properties": {"prompt": {}}}
    assert translate_arguments({"other": 1}, schema).input == {"other": 1}


def test_format_is_another_name_of_output_format() -> None:
    for name in ("format", "image_format"):
        assert translate_arguments({name: "jpeg"}, MODEL).input == {"output_format": "jpeg"}
    both: JsonObject = {"format": "jpeg", "output_format": "png"}
    assert translate_arguments(both, MODEL).input == {"output_format": "png"}


def test_sync_mode_is_about_the_answer_and_not_an_argument_of_the_model() -> None:
    translated = translate_arguments({"prompt": "x", "sync_mode": True}, MODEL)
    assert (translated.input, translated.sync_mode) == ({"prompt": "x"}, True)
    assert not translate_arguments({"sync_mode": "true"}, MODEL).sync_mode


def test_a_stream_asks_for_previews_spread_over_the_steps() -> None:
    assert with_previews({}, MODEL, 8) == {"preview_every": 2}  # 16 steps by default.
    assert with_previews({"num_inference_steps": 4}, MODEL, 8)["preview_every"] == 1
    assert with_previews({"preview_every": 5}, MODEL, 8) == {"preview_every": 5}
    assert with_previews({"num_inference_steps": "x"}, MODEL, 8)["preview_every"] == 1
    assert with_previews({}, TWO_SIDES, 8) == {}


@pytest.mark.parametrize("body", [b"", b"  ", b"{}"])
def test_no_body_is_an_empty_object(body: bytes) -> None:
    assert parse_object(body) == {}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b'{"a": NaN}', 400),
        (b'{"a": 1e999}', 400),
        (b'{"a": ["\\ud83d"]}', 400),
        (b'{"\\uDCFF": 1}', 400),
        (b'{"a": "\xed\xa0\xbd"}', 400),
        (b"[" * 40_000, 400),
        (b'{"a": ' + b"9" * 5000 + b"}", 400),
        (b'{"a": [' + b"[]," * VALUES_MAX + b"0]}", 413),
        (b"[]", 422),
        (b'"text"', 422),
        (b"null", 422),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        parse_object(body)
    assert caught.value.answer.status == status


def test_a_body_may_be_in_any_encoding_that_json_may_have() -> None:
    text = '{"a": "\\ud83d\\ude00", "b": "ü😀"}'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32-be"):
        assert parse_object(text.encode(encoding)) == {"a": "😀", "b": "ü😀"}


def test_a_body_of_as_many_values_as_an_upload_has_parts_is_taken() -> None:
    parts: list[Json] = [{"partNumber": number, "etag": "x"} for number in range(PARTS_MAX)]
    assert parse_object(render({"parts": parts}).encode()) == {"parts": parts}


def test_json_leaves_as_ascii_even_where_it_is_no_text() -> None:
    assert render({"a": "ü \ud800"}) == '{"a":"\\u00fc \\ud800"}'


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("format", "output_format"),
        ("steps", "num_inference_steps"),
        ("cond_aug", "noise_aug_strength"),
        ("start_image_url", "image_url"),
        ("last_image_url", "end_image_url"),
    ],
)
def test_inputs_by_the_names_that_some_endpoints_have_for_them_are_taken(
    theirs: str, ours: str
) -> None:
    schema: JsonObject = {"additionalProperties": False, "properties": {ours: {}}}
    assert translate_arguments({theirs: 4}, schema).input == {ours: 4}
    assert translate_arguments({theirs: 4, ours: 5}, schema).input == {ours: 5}
    own: JsonObject = {"additionalProperties": False, "properties": {ours: {}, theirs: {}}}
    assert translate_arguments({theirs: 4}, own).input == {theirs: 4}


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("num_inference_steps", "4", 4),
        ("guidance_scale", "7.5", 7.5),
        ("seed", "9007199254740993", 9007199254740993),
        ("num_inference_steps", "many", "many"),
        ("num_inference_steps", "1e999", "1e999"),
        ("num_inference_steps", "NaN", "NaN"),
        ("num_inference_steps", "[4]", "[4]"),
        ("num_inference_steps", "4" * 5000, "4" * 5000),
        ("prompt", "4", "4"),
        ("image_size", {"width": "64", "height": "wide"}, {"width": 64, "height": "wide"}),
    ],
)
def test_a_number_may_come_as_text_where_the_model_takes_no_text(
    name: str, given: Json, taken: Json
) -> None:
    assert translate_arguments({name: given}, MODEL).input == {name: taken}


ONE_PICTURE: JsonObject = {"additionalProperties": False, "properties": {"image_url": {}}}
SEVERAL: JsonObject = {
    "additionalProperties": False,
    "properties": {"image_url": {}, "image_urls": {}, "mask_url": {}},
}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"image_urls": ["a"]}, {"image_url": "a"}),
        ({"image_urls": ["a", "b"]}, {"image_url": "a", "image_urls": ["b"]}),
        (
            {"image_url": "a", "image_urls": ["b", "c"]},
            {"image_url": "a", "image_urls": ["b", "c"]},
        ),
        ({"input_images": ["a", "b"]}, {"image_url": "a", "image_urls": ["b"]}),
        ({"image": ["a", "b"]}, {"image_url": "a", "image_urls": ["b"]}),
        ({"image": "a", "mask": "b"}, {"image_url": "a", "mask_url": "b"}),
        ({"input_image": "a"}, {"image_url": "a"}),
        ({"image_urls": []}, {}),
        ({"image_urls": 7}, {"image_urls": 7}),
    ],
)
def test_the_first_of_several_pictures_is_the_one_to_begin_with(
    given: JsonObject, wanted: JsonObject
) -> None:
    assert translate_arguments(given, SEVERAL).input == wanted


def test_a_model_of_one_picture_takes_a_list_of_one_and_no_more() -> None:
    assert translate_arguments({"image_urls": ["a"]}, ONE_PICTURE).input == {"image_url": "a"}
    with pytest.raises(HttpError) as caught:
        translate_arguments({"image_urls": ["a", "b"]}, ONE_PICTURE)
    detail = caught.value.answer.detail
    assert not isinstance(detail, str)
    assert (detail[0]["loc"], detail[0]["msg"]) == (
        ["body", "image_urls"],
        "This model takes one picture",
    )
