"""Picture to picture: real tiny pipelines that begin with what a request brings."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from support.studio import Studio

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def a_picture(color: str = "red", size: tuple[int, int] = (40, 24), kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, kind)
    return data.getvalue()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def half_mask() -> str:
    """White on the right half."""
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (16, 0, 32, 32))
    data = io.BytesIO()
    mask.save(data, "PNG")
    return data_uri(data.getvalue())


@pytest.mark.parametrize("model", ["sd", "sdxl", "flux"])
async def test_a_picture_shapes_what_is_drawn(studio: Studio, model: str) -> None:
    given = {"strength": 0.5, "num_inference_steps": 4}
    plain = await studio.draw(model, num_inference_steps=4)
    red = await studio.draw(model, image_url=data_uri(a_picture("red")), **given)
    blue = await studio.draw(model, image_url=data_uri(a_picture("blue")), **given)
    again = await studio.draw(model, image_url=data_uri(a_picture("red")), **given)
    pixels = [studio.pixels(end.artifacts[0]) for end in (plain, red, blue, again)]
    assert all(each.shape == (32, 32, 3) for each in pixels)
    assert not np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[1], pixels[2])
    assert np.array_equal(pixels[1], pixels[3])
    # Half of four steps: the picture stands for the other half.
    steps = [m.event.progress for m in studio.session.seen("progress")][4:6]
    assert [(each.step, each.steps) for each in steps] == [(1, 2), (2, 2)]


@pytest.mark.parametrize("model", ["sd", "sdxl", "flux"])
async def test_a_mask_says_what_is_drawn_anew(studio: Studio, model: str) -> None:
    picture = data_uri(a_picture("red", (32, 32)))
    end = await studio.draw(
        model, image_url=picture, mask_url=half_mask(), strength=1.0, num_images=2
    )
    assert len(end.artifacts) == 2
    whole = await studio.draw(model, image_url=picture, strength=1.0)
    assert not np.array_equal(studio.pixels(end.artifacts[0]), studio.pixels(whole.artifacts[0]))


async def test_text_alone_draws_the_same_after_a_picture_as_before(studio: Studio) -> None:
    before = await studio.draw("sdxl")
    await studio.draw("sdxl", image_url=data_uri(a_picture()))
    after = await studio.draw("sdxl")
    assert before.artifacts[0].sha256 == after.artifacts[0].sha256


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
async def test_pictures_of_every_common_format_are_read(studio: Studio, kind: str) -> None:
    end = await studio.draw("sd", image_url=data_uri(a_picture(kind=kind)))
    assert end.artifacts


async def test_a_picture_in_the_blob_store_is_read_by_its_unguessable_name(
    studio: Studio,
) -> None:
    name = "A" * 43
    folder = studio.data_dir / "blobs" / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(a_picture())
    stored = await studio.draw("sd", image_url=f"blob:inputs/{name}")
    inline = await studio.draw("sd", image_url=data_uri(a_picture()))
    assert stored.artifacts[0].sha256 == inline.artifacts[0].sha256


@pytest.mark.parametrize(
    ("field", "url", "told"),
    [
        ("image_url", "http://169.254.169.254/latest", "which workers do not fetch"),
        ("image_url", "file:///etc/passwd", "which workers do not fetch"),
        ("image_url", "blob:artifacts/other/0.png", "which workers do not fetch"),
        ("image_url", "blob:inputs/../artifacts/x/0.png", "which workers do not fetch"),
        ("image_url", "blob:inputs/" + "A" * 43, "not kept any more"),
        ("image_url", "data:image/png;base64,AAAA", "no picture that can be read"),
        ("image_url", "data:image/png;base64,%%%", "no base64"),
        ("image_url", data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "no picture"),
        ("mask_url", data_uri(a_picture()), "needs an image_url"),
    ],
)
async def test_what_is_no_picture_is_refused_by_its_field(
    studio: Studio, field: str, url: str, told: str
) -> None:
    failure = await studio.fail("sd", **{field: url})
    assert failure.reason == "INVALID_INPUT"
    assert told in failure.message
    assert failure.violations[0].field == f"input.{field}"


async def test_a_small_file_of_many_pixels_is_refused_unread(studio: Studio) -> None:
    """Only its header says how large it is: reading on would fail otherwise."""
    bomb = a_picture()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + bomb[24:29]
    bomb = bomb[:12] + header + struct.pack(">I", zlib.crc32(header)) + bomb[33:]
    failure = await studio.fail("sd", image_url=data_uri(bomb))
    assert failure.reason == "INVALID_INPUT"
    assert "pixels" in failure.message
