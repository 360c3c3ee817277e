"""The published openai client, unchanged, brought here by its own base URL."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from PIL import Image

from support.fake_inference import ALIAS, ALICE_KEY, MODEL_ID
from support.gateway_rig import Rig, a_gateway


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_gateway(tmp_path) as rig:
        yield rig


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{rig.listening.public_url}/openai/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=ALICE_KEY) as client:
        yield client


async def test_pictures_come_as_base64_unless_links_are_wanted(
    rig: Rig, client: openai.AsyncOpenAI
) -> None:
    made = await client.images.generate(model=MODEL_ID, prompt="a red circle", n=2)
    assert made.data is not None
    pictures = [base64.b64decode(each.b64_json or "") for each in made.data]
    assert pictures == [b"picture 0", b"picture 1"]
    assert (made.size, made.output_format) == ("64x64", "png")
    linked = await client.images.generate(
        model=MODEL_ID, prompt="a red circle", response_format="url"
    )
    assert linked.data is not None
    url = linked.data[0].url
    assert url is not None
    assert (await rig.nobody.get(url)).content == b"picture 0"


def a_png(mode: str = "RGB") -> bytes:
    """16 x 16; with `RGBA` its right half is transparent."""
    picture = Image.new(mode, (16, 16), "red")
    if mode == "RGBA":
        picture.paste((0, 0, 0, 0), (8, 0, 16, 16))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


async def test_a_picture_is_edited_where_its_mask_is_transparent(
    rig: Rig, tmp_path: Path, client: openai.AsyncOpenAI
) -> None:
    made = await client.images.edit(
        model=MODEL_ID, prompt="x", image=a_png(), mask=a_png("RGBA"), n=2, size="64x64"
    )
    assert made.data is not None
    assert len(made.data) == 2
    given = json.loads(list(rig.platform.requests.values())[-1].submitted.input_json)
    blobs = tmp_path / "blobs"
    image = (blobs / given["image_url"].removeprefix("blob:")).read_bytes()
    mask = (blobs / given["mask_url"].removeprefix("blob:")).read_bytes()
    assert image == a_png()
    painted = Image.open(io.BytesIO(mask))
    assert (painted.getpixel((0, 0)), painted.getpixel((15, 15))) == (0, 255)
    assert (given["num_images"], given["image_size"]) == (2, {"width": 64, "height": 64})


# The client says that its vendor has retired the call; programs that make it still do.
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_a_variation_is_an_edit_without_a_prompt_whose_pictures_are_links(
    rig: Rig, tmp_path: Path, client: openai.AsyncOpenAI
) -> None:
    made = await client.images.create_variation(
        model=MODEL_ID, image=a_png(), n=2, size="512x512", user="somebody", extra_body={"seed": 7}
    )
    assert made.data is not None
    assert len(made.data) == 2
    url = made.data[1].url
    assert url is not None
    assert (await rig.nobody.get(url)).content == b"picture 1"
    given = (await rig.platform.submitted()).input
    assert (given["num_images"], given["seed"], given["strength"]) == (2, 7, 0.6)
    assert given["prompt"] == "a picture"
    blob = str(given["image_url"]).removeprefix("blob:")
    assert (tmp_path / "blobs" / blob).read_bytes() == a_png()
    inline = await client.images.create_variation(
        model=MODEL_ID, image=a_png(), response_format="b64_json", extra_body={"strength": 0.9}
    )
    assert inline.data is not None
    assert base64.b64decode(inline.data[0].b64_json or "") == b"picture 0"
    assert (await rig.platform.submitted(2)).input["strength"] == 0.9


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_a_variation_that_cannot_be_made_is_refused_by_name(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError, match="from 1 to 10") as counted:
        await client.images.create_variation(model=MODEL_ID, image=a_png(), n=11)
    assert counted.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="it is none of PNG, JPEG") as unread:
        await client.images.create_variation(model=MODEL_ID, image=b"no picture")
    assert unread.value.param == "image"


async def test_an_edit_is_seen_as_it_forms(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.edit(
        model=MODEL_ID, prompt="x", image=a_png(), stream=True, partial_images=2
    )
    kinds = [event.type async for event in stream]
    assert kinds == ["image_edit.partial_image", "image_edit.completed"]


async def test_a_picture_is_seen_as_it_forms(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.generate(
        model=MODEL_ID, prompt="a red circle", stream=True, partial_images=2
    )
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]
    assert base64.b64decode(events[-1].b64_json) == b"picture 0"


async def test_size_seed_and_the_default_model_reach_the_platform(
    rig: Rig, client: openai.AsyncOpenAI
) -> None:
    await client.images.generate(
        prompt="a red circle",
        size="128x64",
        extra_body={"seed": 7},
    )
    request = await rig.platform.submitted()
    assert '"seed":7' in request.submitted.input_json
    assert '"image_size":{"width":128,"height":64}' in request.submitted.input_json


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"size": "huge"}, "size"),
        ({"n": 99}, "n"),
        ({"prompt": ""}, "prompt"),
        ({"partial_images": 9, "stream": True}, "partial_images"),
        ({"output_format": "bmp"}, "output_format"),
        ({"size": "65x65"}, "size"),
    ],
)
async def test_a_bad_argument_is_named(
    client: openai.AsyncOpenAI, arguments: dict[str, object], param: str
) -> None:
    wanted: dict[str, object] = {"model": MODEL_ID, "prompt": "x", **arguments}
    with pytest.raises(openai.BadRequestError) as raised:
        await client.post("/images/generations", body=wanted, cast_to=object)
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error"


async def test_keys_and_models_that_are_not_are_told_in_its_words(
    rig: Rig, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.images.generate(model="no/such", prompt="x")
    assert missing.value.code == "model_not_found"
    stranger = client.with_options(api_key="qt_wrong_key")
    with pytest.raises(openai.AuthenticationError) as refused:
        await stranger.images.generate(model=MODEL_ID, prompt="x")
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as edit:
        await client.images.edit(model=MODEL_ID, prompt="x", image=b"\x89PNG")
    assert edit.value.param == "image"
    with pytest.raises(openai.BadRequestError) as two:
        await client.images.edit(model=MODEL_ID, prompt="x", image=[a_png(), a_png()])
    assert two.value.param == "image"
    with pytest.raises(openai.BadRequestError) as opaque:
        await client.images.edit(model=MODEL_ID, prompt="x", image=a_png(), mask=a_png())
    assert opaque.value.param == "mask"


async def test_what_would_change_the_picture_and_cannot_be_followed_is_refused(
    rig: Rig, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError, match="takes such a file") as marked:
        await client.images.edit(model=MODEL_ID, prompt="x", image=a_png(), markup=a_png())
    assert marked.value.param == "markup"
    with pytest.raises(
        openai.BadRequestError, match="no background is transparent"
    ) as seen_through:
        await client.images.generate(model=MODEL_ID, prompt="x", background="transparent")
    assert seen_through.value.param == "background"
    form = {"model": MODEL_ID, "prompt": "x", "mask": "data:image/png;base64,AAAA"}
    text = await rig.http.post("/openai/v1/images/edits", data=form, files={"image": a_png()})
    assert (text.status_code, text.json()["error"]["param"]) == (400, "mask")
    assert not rig.platform.requests


async def test_a_failed_run_is_an_error_that_is_not_tried_again(
    rig: Rig, client: openai.AsyncOpenAI
) -> None:
    rig.platform.hold()

    async def fail() -> None:
        await (await rig.platform.submitted()).fail("ENGINE_FAILED", "the model broke")

    failing = asyncio.create_task(fail())
    with pytest.raises(openai.InternalServerError, match="the model broke"):
        await client.images.generate(model=MODEL_ID, prompt="x")
    await failing
    assert len(rig.platform.requests) == 1


async def test_an_error_says_what_is_wrong_with_what_and_only_models_are_missing_models(
    rig: Rig,
) -> None:
    body = {"model": MODEL_ID, "prompt": "x", "size": "65x64", "seed": "a"}
    odd = (await rig.http.post("/openai/v1/images/generations", json=body)).json()["error"]
    assert "image_size.width: 65 is not a multiple of 8" in odd["message"]
    assert "seed: " in odd["message"]
    path = (await rig.http.post("/openai/v1/chat/completions", json={})).json()["error"]
    assert path["code"] == "unknown_url"


async def test_each_model_of_the_list_can_be_retrieved_by_its_id_and_by_an_alias(
    client: openai.AsyncOpenAI,
) -> None:
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == [
        MODEL_ID,
        f"{MODEL_ID}/image-to-image",
        f"{MODEL_ID}/inpainting",
    ]
    assert {model.owned_by for model in listed} == {"quickthaw"}
    assert [await client.models.retrieve(model.id) for model in listed] == listed
    assert (await client.models.retrieve(f"{ALIAS}/inpainting")) == listed[2]
    for what_it_does_not_do in ("image-to-video", "upscaling"):
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(f"{MODEL_ID}/{what_it_does_not_do}")
