"""Videos and sounds through the whole platform: the command line, fal's client, links, the bill."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image

from quickthaw.cli.pointing import Place, variables
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support import fal_media_script
from support.flux2_models import tiny_klein
from support.other_models import tiny_audio, tiny_svd, tiny_wan
from support.picture_models import tiny_kontext, tiny_wan_both
from support.platform import Platform, running_platform

BUILDERS: dict[str, Callable[[], Any]] = {
    "wan": tiny_wan,
    "svd": tiny_svd,
    "audio": tiny_audio,
    "both": tiny_wan_both,
    "kontext": tiny_kontext,
    "klein": tiny_klein,
}
FILM = ("num_frames=9", "fps=6", "image_size=64x32", "num_inference_steps=2", "seed=7")
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("packed")
    store = SnapshotStore(folder)
    digests = {name: pack(build(), store) for name, build in BUILDERS.items()}
    with running_platform(tmp_path_factory.mktemp("platform")) as running:
        for name, digest in digests.items():
            running.told("models", "add", folder, "--id", f"test/{name}", "--digest", digest)
        yield running


@pytest.fixture(scope="module")
def by_fal(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the script got."""
    picture = tmp_path_factory.mktemp("picture") / "gradient.png"
    Image.linear_gradient("L").resize((128, 64)).convert("RGB").save(picture)
    place = Place(platform.ready["http"], platform.key, platform.data_dir / "tls")
    done = subprocess.run(
        [sys.executable, fal_media_script.__file__, str(picture)],
        env={**os.environ, **variables("fal", place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def assert_plays(content: bytes) -> None:
    with av.open(io.BytesIO(content), "r") as file:
        frames = list(file.decode(video=0))
    assert len(frames) == 9
    assert (frames[0].width, frames[0].height) == (64, 32)


def test_run_saves_a_video_that_plays(platform: Platform, tmp_path: Path) -> None:
    prompt = "prompt=a red circle"
    request = platform.told("run", "test/wan", prompt, *FILM, "--output", tmp_path)
    (saved,) = map(Path, request["files"])
    assert saved.parent == tmp_path
    assert saved.name.endswith("-video.mp4")
    assert_plays(saved.read_bytes())
    assert request["artifacts"][0]["duration_ms"] == 1500


def test_run_saves_a_sound_that_plays(platform: Platform, tmp_path: Path) -> None:
    words = ("prompt=a red circle", "seconds_total=4", "num_inference_steps=2")
    (saved,) = platform.told("run", "test/audio", *words, "--output", tmp_path)["files"]
    with wave.open(saved) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16, 2, 64)


@pytest.mark.parametrize("name", ["wan", "svd", "both"])
def test_fals_client_gets_a_video_in_fals_shape(by_fal: Any, name: str) -> None:
    output = by_fal[name]
    video = output["video"]
    assert (video["content_type"], video["file_name"]) == ("video/mp4", "video.mp4")
    assert (video["width"], video["height"], video["duration"]) == (64, 32, 1.5)
    assert (output["seed"], output["num_frames"], output["fps"]) == (7, 9, 6)
    assert "images" not in output
    assert "has_nsfw_concepts" not in output
    assert_plays(httpx.get(video["url"]).content)


def test_fals_client_gets_a_sound_in_fals_shape(by_fal: Any) -> None:
    file = by_fal["audio"]["audio_file"]
    assert (file["content_type"], file["duration"]) == ("audio/wav", 4.0)
    with wave.open(io.BytesIO(httpx.get(file["url"]).content)) as sound:
        assert sound.getnframes() == 64


def test_fals_client_gets_a_picture_changed_as_it_says(by_fal: Any) -> None:
    (picture,) = by_fal["kontext"]["images"]
    assert (picture["width"], picture["height"], picture["content_type"]) == (64, 32, "image/png")
    assert by_fal["kontext"]["prompt"] == "make it blue"


def test_fals_client_gets_a_picture_made_after_several(by_fal: Any) -> None:
    (picture,) = by_fal["klein"]["images"]
    assert (picture["width"], picture["height"]) == (64, 32)
    assert by_fal["klein"]["seed"] == 7


def test_run_uploads_each_picture_of_a_list(platform: Platform, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(tmp_path / f"{name}.png")
    urls = json.dumps([f"{tmp_path}/{name}.png" for name in ("a", "b")])
    words = ("prompt=both of them", f"image_urls={urls}", "image_size=64x32", *FILM[3:])
    (saved,) = platform.told("run", "test/klein", *words, "--output", tmp_path)["files"]
    with Image.open(saved) as picture:
        assert picture.size == (64, 32)


def test_openais_edits_go_to_a_model_that_changes_pictures(platform: Platform) -> None:
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((64, 32)).convert("RGB").save(picture, "PNG")
    fields = {"model": "test/kontext", "prompt": "make it blue", "size": "64x32"}
    answer = httpx.post(
        f"{platform.ready['http']}/openai/v1/images/edits",
        headers={"authorization": f"Bearer {platform.key}"},
        data={**fields, "num_inference_steps": "2"},
        files={"image": ("a.png", picture.getvalue(), "image/png")},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    drawn = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(drawn)).size == (64, 32)


def test_a_stream_shows_moving_previews_and_ends_with_the_video(by_fal: Any) -> None:
    *previews, last = by_fal["stream"]
    assert next(each["progress"]["step"] for each in previews if each.get("images")) == 1
    pictures = [each["images"][0] for each in previews if each.get("images")]
    assert {picture["content_type"] for picture in pictures} == {"image/webp"}
    assert last["video"]["url"]


def test_players_get_the_part_that_they_seek_to(by_fal: Any) -> None:
    url = by_fal["wan"]["video"]["url"]
    whole = httpx.get(url)
    assert (whole.headers["content-type"], whole.headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert "media-src 'self'" in whole.headers["content-security-policy"]
    part = httpx.get(url, headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])


def test_openai_refuses_a_model_of_videos_by_name(platform: Platform) -> None:
    answer = httpx.post(
        f"{platform.ready['http']}/openai/v1/images/generations",
        headers={"authorization": f"Bearer {platform.key}"},
        json={"model": "test/wan", "prompt": "a red circle"},
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "operation_not_supported"
    assert "makes video" in error["message"]


def test_replicate_gets_one_file_and_not_a_list(platform: Platform) -> None:
    input_ = {**fal_media_script.FILM, "prompt": "a red circle"}
    with httpx.Client(
        base_url=f"{platform.ready['http']}/replicate/v1",
        headers={"authorization": f"Bearer {platform.key}", "prefer": "wait=60"},
        timeout=250,
    ) as client:
        answer = client.post("/models/test/wan/predictions", json={"input": input_}).json()
        schema = client.get("/models/test/wan").json()["latest_version"]["openapi_schema"]
    assert answer["status"] == "succeeded", answer
    assert isinstance(answer["output"], str)
    assert schema["components"]["schemas"]["Output"]["type"] == "string"


def test_an_endpoints_document_says_what_it_makes(platform: Platform) -> None:
    found = {}
    for name in ("wan", "svd", "audio", "kontext"):
        document = httpx.get(
            f"{platform.ready['http']}/api/openapi/queue/openapi.json",
            params={"endpoint_id": f"test/{name}"},
        ).json()
        pascal = f"Test{name.title()}Output"
        output = document["components"]["schemas"][pascal]["properties"]
        found[document["info"]["x-fal-metadata"]["category"]] = next(iter(output))
    assert found == {
        "text-to-video": "video",
        "image-to-video": "video",
        "text-to-audio": "audio_file",
        "image-to-image": "images",
    }
