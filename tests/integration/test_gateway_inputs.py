"""Pictures that arguments name: where they may come from, what they may be, where they go."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import cast

import httpx
import pytest
from PIL import Image

from quickthaw.gateway.settings import Limits
from support.fake_inference import MODEL_ID, SCHEMA
from support.gateway_rig import Rig, a_gateway
from support.web_pages import a_web_server


def a_picture(size: tuple[int, int] = (100, 60), kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, kind)
    return data.getvalue()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


async def run(rig: Rig, url: str, model: str = MODEL_ID, **more: object) -> httpx.Response:
    arguments = {"prompt": "x", "image_url": url, **more}
    return await rig.http.post(f"/run/{model}", json=arguments)


def submitted(rig: Rig) -> dict[str, object]:
    """The input of the newest request, as the scheduler got it."""
    newest = list(rig.platform.requests.values())[-1]
    found: dict[str, object] = json.loads(newest.submitted.input_json)
    return found


def left_at(folder: Path, reference: object) -> bytes:
    assert isinstance(reference, str)
    assert reference.startswith("blob:inputs/")
    return (folder / "blobs" / reference.removeprefix("blob:")).read_bytes()


async def refused(answer: httpx.Response) -> dict[str, object]:
    assert answer.status_code == 422, answer.text
    item: dict[str, object] = answer.json()["detail"][0]
    assert item["loc"] == ["body", "image_url"]
    return item


async def test_a_picture_is_left_for_the_worker_and_gives_the_size(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        assert (await run(rig, data_uri(a_picture()))).status_code == 200
        first = submitted(rig)
        assert left_at(tmp_path, first["image_url"]) == a_picture()
        assert first["image_size"] == {"width": 104, "height": 64}
        assert (await run(rig, data_uri(a_picture()), image_size="square")).status_code == 200
        second = submitted(rig)
        assert second["image_size"] == {"width": 512, "height": 512}
        assert second["image_url"] == first["image_url"]


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [((3000, 1500), (1024, 512)), ((700, 2100), (344, 1024)), ((40, 20), (128, 64))],
)
async def test_a_picture_beyond_what_the_model_draws_keeps_its_shape(
    tmp_path: Path, picture: tuple[int, int], wanted: tuple[int, int]
) -> None:
    async with a_gateway(tmp_path) as rig:
        assert (await run(rig, data_uri(a_picture(picture)))).status_code == 200
        assert submitted(rig)["image_size"] == dict(zip(("width", "height"), wanted, strict=True))


async def test_a_model_that_decides_the_size_itself_is_given_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = cast("dict[str, dict[str, object]]", SCHEMA["properties"])
    declared = {**properties["image_size"], "type": ["object", "null"], "default": None}
    monkeypatch.setitem(SCHEMA, "properties", {**properties, "image_size": declared})
    async with a_gateway(tmp_path) as rig:
        assert (await run(rig, data_uri(a_picture()))).status_code == 200
        assert not submitted(rig).get("image_size")
        assert (await run(rig, data_uri(a_picture()), image_size="square")).status_code == 200
        assert submitted(rig)["image_size"] == {"width": 512, "height": 512}


async def test_an_uploaded_file_and_a_finished_picture_are_read_from_the_store(
    tmp_path: Path,
) -> None:
    """Their URLs are on loopback, where nothing is fetched from."""
    async with a_gateway(tmp_path) as rig:
        sent = await rig.http.post("/cdn/files/upload", content=a_picture())
        assert (await run(rig, sent.json()["access_url"])).status_code == 200
        assert left_at(tmp_path, submitted(rig)["image_url"]) == a_picture()
        path = sent.json()["access_url"].removeprefix(rig.listening.public_url)
        assert (await run(rig, f"https://v3.fal.media{path}")).status_code == 200
        rig.platform.hold()
        queued = await rig.http.post(f"/queue/{MODEL_ID}", json={"prompt": "x"})
        request = await rig.platform.submitted(3)
        await request.succeed(rig.platform.picture(request, a_picture((64, 64))))
        result = await rig.http.get(queued.json()["response_url"])
        made = result.json()["images"][0]["url"]
        arguments = {"prompt": "x", "image_url": made}
        assert (await rig.http.post(f"/queue/{MODEL_ID}", json=arguments)).status_code == 200
        assert left_at(tmp_path, submitted(rig)["image_url"]) == a_picture((64, 64))


async def test_a_file_that_is_kept_from_the_caller_is_none_for_it(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        headers = {
            "authorization": "Key qt_bob_secret",
            "x-fal-object-lifecycle": '{"initial_acl": {"default": "hide"}}',
        }
        sent = await rig.nobody.post("/cdn/files/upload", content=a_picture(), headers=headers)
        url = sent.json()["access_url"]
        assert (await refused(await run(rig, url)))["type"] == "file_download_error"
        arguments = {"prompt": "x", "image_url": url}
        own = await rig.nobody.post(f"/run/{MODEL_ID}", json=arguments, headers=headers)
        assert own.status_code == 200


async def test_a_url_of_the_web_is_fetched_where_that_is_allowed(tmp_path: Path) -> None:
    async with a_web_server({"/a.png": a_picture(), "/page": b"<html>"}) as web:
        async with a_gateway(tmp_path, input_allow_private=True) as rig:
            assert (await run(rig, f"{web}/a.png")).status_code == 200
            assert left_at(tmp_path, submitted(rig)["image_url"]) == a_picture()
            missing = await refused(await run(rig, f"{web}/none.png"))
            assert missing["type"] == "file_download_error"
            assert "404" in str(missing["msg"])
            assert (await refused(await run(rig, f"{web}/page")))["type"] == "image_load_error"
        async with a_gateway(tmp_path) as rig:
            item = await refused(await run(rig, f"{web}/a.png"))
            assert item["type"] == "file_download_error"
            assert "private" in str(item["msg"])
            assert not rig.platform.requests


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://example.com/x", "blob:inputs/" + "A" * 43, "nonsense"),
        *("http://localhost:1/x", "http://[::ffff:127.0.0.1]/x", "http://2130706433/"),
        "http://169.254.169.254/latest/meta-data",
    ],
)
async def test_nothing_else_is_fetched(tmp_path: Path, url: str) -> None:
    async with a_gateway(tmp_path) as rig:
        assert (await refused(await run(rig, url)))["type"] == "file_download_error"
        assert not rig.platform.requests


async def test_what_is_wrong_with_a_picture_is_said_in_fals_words(tmp_path: Path) -> None:
    limits = Limits(input_file_bytes_max=100_000, input_side_max=2000, drain_seconds=1)
    bomb = a_picture()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + bomb[24:29]
    bomb = bomb[:12] + header + struct.pack(">I", zlib.crc32(header)) + bomb[33:]
    async with a_gateway(tmp_path, limits=limits) as rig:
        for data, kind, context in [
            (a_picture()[:-30], "image_load_error", None),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_load_error", None),
            (b"", "image_load_error", None),
            (bytes(100_001), "file_too_large", {"max_size": 100_000}),
            (a_picture((4, 90)), "image_too_small", {"min_height": 8, "min_width": 8}),
            (a_picture((2001, 9)), "image_too_large", {"max_height": 2000, "max_width": 2000}),
            (bomb, "image_too_large", {"max_height": 2000, "max_width": 2000}),
        ]:
            item = await refused(await run(rig, data_uri(data)))
            assert (item["type"], item.get("ctx")) == (kind, context)
            assert "input" not in item
        assert not rig.platform.requests


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_pictures_are_known_by_their_bytes(tmp_path: Path, kind: str) -> None:
    async with a_gateway(tmp_path) as rig:
        uri = data_uri(a_picture(kind=kind), "application/octet-stream")
        assert (await run(rig, uri)).status_code == 200


async def test_the_id_for_drawing_over_a_picture_needs_one(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        over = f"{MODEL_ID}/image-to-image"
        assert (await run(rig, data_uri(a_picture()), over)).status_code == 200
        missing = await rig.http.post(f"/run/{over}", json={"prompt": "x"})
        assert (await refused(missing))["type"] == "missing"
        masked = await run(rig, data_uri(a_picture()), f"{MODEL_ID}/inpainting")
        assert masked.json()["detail"][0]["loc"] == ["body", "mask_url"]
        both = await run(
            rig,
            data_uri(a_picture()),
            f"{MODEL_ID}/inpainting",
            mask_url=data_uri(a_picture()),
        )
        assert both.status_code == 200
        assert (await rig.http.post(f"/run/{MODEL_ID}/other", json={})).status_code == 404


async def test_without_a_blob_store_small_pictures_travel_inside_the_input(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_blobs=False) as rig:
        assert (await run(rig, data_uri(a_picture()))).status_code == 200
        inside = submitted(rig)["image_url"]
        assert isinstance(inside, str)
        assert base64.b64decode(inside.partition(",")[2]) == a_picture()


@pytest.fixture
def taking_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model takes more pictures than one."""
    properties = cast("dict[str, dict[str, object]]", SCHEMA["properties"])
    several = {"type": "array", "items": properties["image_url"]}
    monkeypatch.setitem(SCHEMA, "properties", {**properties, "image_urls": several})


@pytest.mark.usefixtures("taking_several")
async def test_each_of_several_pictures_is_left_for_the_worker(tmp_path: Path) -> None:
    pictures = [a_picture((100, 60)), a_picture((64, 64), "JPEG"), a_picture((32, 90))]
    urls = [data_uri(each) for each in pictures]
    async with a_gateway(tmp_path) as rig:
        answer = await rig.http.post(f"/run/{MODEL_ID}", json={"prompt": "x", "image_urls": urls})
        assert answer.status_code == 200
        found = submitted(rig)
        more = cast("list[object]", found["image_urls"])
        assert [left_at(tmp_path, each) for each in (found["image_url"], *more)] == pictures
        assert found["image_size"] == {"width": 104, "height": 64}


@pytest.mark.usefixtures("taking_several")
async def test_more_pictures_than_are_fetched_for_one_request_are_refused(tmp_path: Path) -> None:
    urls = [data_uri(a_picture())] * 4
    async with a_gateway(tmp_path, limits=Limits(input_pictures_max=2, drain_seconds=1)) as rig:
        answer = await rig.http.post(f"/run/{MODEL_ID}", json={"prompt": "x", "image_urls": urls})
        (item,) = answer.json()["detail"]
        assert (item["loc"], item["type"]) == (["body", "image_urls"], "sequence_too_long")
        assert not rig.platform.requests


@pytest.mark.usefixtures("taking_several")
async def test_an_edit_by_openais_client_may_have_several_pictures(tmp_path: Path) -> None:
    pictures = [a_picture((100, 60)), a_picture((64, 64))]
    async with a_gateway(tmp_path) as rig:
        answer = await rig.http.post(
            "/openai/v1/images/edits",
            data={"model": MODEL_ID, "prompt": "in blue"},
            files=[("image[]", each) for each in pictures],
        )
        assert answer.status_code == 200, answer.text
        found = submitted(rig)
        (second,) = cast("list[object]", found["image_urls"])
        assert [left_at(tmp_path, each) for each in (found["image_url"], second)] == pictures


async def test_an_edit_of_several_pictures_needs_a_model_that_takes_them(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        answer = await rig.http.post(
            "/openai/v1/images/edits",
            data={"model": MODEL_ID, "prompt": "in blue"},
            files=[("image[]", a_picture())] * 2,
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "image"
