"""`name=value` on the command line, read as the model's schema says."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.values import parse_inputs
from quickthaw.client.convert import json_from_wire
from support.answers import a_schema

SCHEMA = json_from_wire(json.dumps(a_schema()))


def parse(*pairs: str) -> object:
    return parse_inputs(pairs, SCHEMA, "shapes")


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("prompt=a red circle", {"prompt": "a red circle"}),
        ("prompt=7", {"prompt": "7"}),
        ("prompt=null", {"prompt": "null"}),
        ("prompt=", {"prompt": ""}),
        ("prompt=a=b", {"prompt": "a=b"}),
        ("seed=7", {"seed": 7}),
        ("seed=null", {"seed": None}),
        ("guidance_scale=2", {"guidance_scale": 2.0}),
        ("guidance_scale=1e-1", {"guidance_scale": 0.1}),
        ("tiling=yes", {"tiling": True}),
        ("tiling=OFF", {"tiling": False}),
        ("image_size=512x768", {"image_size": {"width": 512, "height": 768}}),
        ('image_size={"width": 8}', {"image_size": {"width": 8}}),
        ("image_size=square", {"image_size": "square"}),
        ('loras=[{"path": "x"}]', {"loras": [{"path": "x"}]}),
    ],
)
def test_a_value_is_read_as_its_type(pair: str, expected: object) -> None:
    assert parse(pair) == expected


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("seed=seven", "seed='seven' must be null or a whole number"),
        ("seed=1.5", "must be null or a whole number"),
        ("guidance_scale=nan", "must be a number"),
        ("guidance_scale=1e400", "must be a number"),
        ("tiling=maybe", "must be true or false"),
        ("loras=x", "must be a JSON array"),
        ("prompt", "write name=value"),
        ("=x", "write name=value"),
        ("promt=x", "did you mean 'prompt'"),
        ("prompt=@/no/such/file", "cannot be read"),
    ],
)
def test_a_value_that_does_not_fit_is_named(pair: str, message: str) -> None:
    with pytest.raises(UsageFault, match=message):
        parse(pair)


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(UsageFault, match="seed is given twice"):
        parse("seed=1", "seed=2")


def test_text_comes_from_a_file_and_an_at_sign_can_be_escaped(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("a long prompt")
    assert parse(f"prompt=@{file}") == {"prompt": "a long prompt"}
    assert parse("prompt=@@home") == {"prompt": "@home"}


def test_an_open_schema_takes_json_or_text_under_any_name() -> None:
    assert parse_inputs(["x=3", "y=three"], {}, "m") == {"x": 3, "y": "three"}


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused_never_a_crash(text: str) -> None:
    for name in ("seed", "image_size", "loras", "tiling", "guidance_scale"):
        with contextlib.suppress(UsageFault):
            parse(f"{name}={text}")
