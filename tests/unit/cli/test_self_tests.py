"""What a self-test asks for, and what it sees in the answer."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping

import av
import numpy as np
import pytest
from PIL import Image

from quickthaw.cli.looking import check_output
from quickthaw.cli.trial_values import plain_values
from quickthaw.client import JsonObject, JsonValue, Model
from quickthaw.snapshot.families import FAMILIES
from quickthaw.wire.errors import EngineFailed


def a_model(schema: JsonObject) -> Model:
    return Model("me/x", "sd", "", "", (), 0, schema)


def steps(default: int) -> dict[str, JsonValue]:
    return {"type": "integer", "default": default}


FILM: JsonObject = {
    "num_frames": {"default": 81, "enum": [1, 5, 9, 13]},
    "num_inference_steps": steps(50),
    "preview_every": steps(0),
    "seed": {},
}


@pytest.mark.parametrize(
    ("properties", "wanted"),
    [
        (
            {"prompt": {}, "seed": {}, "num_inference_steps": steps(50), "image_url": {}},
            {"prompt": "a red circle above a blue square", "seed": 7},
        ),
        (FILM, {"seed": 7, "num_frames": 9, "num_inference_steps": 4, "preview_every": 1}),
        ({"num_frames": {"default": 5}, "num_inference_steps": steps(2)}, {}),
        ({"num_frames": {"default": 14}}, {"num_frames": 9}),
        (
            {"seconds_total": {"default": 30}, "num_inference_steps": steps(100)},
            {"seconds_total": 4.0, "num_inference_steps": 8},
        ),
        ({"seconds_total": {"default": 0.5}}, {}),
    ],
)
def test_pictures_are_drawn_as_their_defaults_have_it_and_videos_and_sounds_are_short(
    properties: JsonObject, wanted: Mapping[str, JsonValue]
) -> None:
    assert plain_values(a_model({"properties": properties})) == wanted


def test_pictures_that_a_model_must_have_are_made_up() -> None:
    names = ("image_url", "end_image_url", "mask_url", "other_url")
    schema: JsonObject = {"properties": {name: {} for name in names}, "required": [*names]}
    values = plain_values(a_model(schema))
    assert values.keys() == {"image_url", "end_image_url", "mask_url"}
    for value in values.values():
        head, _, content = str(value).partition(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert len(picture.getcolors(maxcolors=1 << 16) or ()) >= 2


def test_every_family_can_be_tried_without_being_told_anything() -> None:
    for family in FAMILIES.values():
        required = {"prompt", *family.required}
        schema: JsonObject = {
            "properties": {name: {} for name in required},
            "required": [*required],
        }
        assert plain_values(a_model(schema)).keys() >= set(family.required), family.name


def picture(colour: str | None) -> bytes:
    drawn = Image.new("RGB", (32, 32), colour) if colour else Image.linear_gradient("L")
    content = io.BytesIO()
    drawn.convert("RGB").save(content, "PNG")
    return content.getvalue()


def video(*levels: int) -> bytes:
    """Of plain frames, or of a gradient for -1."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for level in levels:
            row = np.linspace(0, 255, 64) if level < 0 else np.full(64, level)
            pixels = np.broadcast_to(row[None, :, None], (64, 64, 3)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return content.getvalue()


def sound(*samples: int) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.array(samples, np.int16).tobytes())
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (picture("black"), "image/png", "picture has one colour only"),
        (video(0, 0, 0), "video/mp4", "video shows one colour only"),
        (video(100, 100), "video/mp4", "video shows one colour only"),
        (sound(0, 0, 0, 0), "audio/wav", "sound is silence"),
    ],
)
def test_what_overflowing_weights_make_is_a_failure(content: bytes, kind: str, said: str) -> None:
    with pytest.raises(EngineFailed, match=f"{said}: the weights may overflow.*--dtype bfloat16"):
        check_output(content, kind, "--dtype ")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (picture(None), "image/png"),
        (video(0, 0, -1), "video/mp4"),
        (sound(0, 0, 1, 0), "audio/wav"),
        (b"fLaC", "audio/flac"),
        (b"{}", "application/json"),
    ],
)
def test_what_has_something_on_it_passes(content: bytes, kind: str) -> None:
    check_output(content, kind)
