"""Videos and sounds of one's own, deployed over plain HTTP and by the command: tried with little,
and shown."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image

from quickthaw.snapshot import SnapshotStore
from support.other_models import tiny_audio, tiny_ltx, tiny_svd, tiny_wan
from support.platform import Platform, quickthaw, running_platform
from support.tenants import a_tenant

pytestmark = [
    pytest.mark.timeout(600),  # each deployment imports torch in a process of its own
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
]
MAKERS = {"wan": tiny_wan, "ltx": tiny_ltx, "svd": tiny_svd, "audio": tiny_audio}
FRAMES = {"wan": 9, "ltx": 9, "svd": 2}
"""Nine, but where a model itself makes fewer."""
SMALL = {"image_size": {"width": 64, "height": 32}}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, make in MAKERS.items():
        make().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    # A folder that workers of other machines would reach as well.
    bucket = tmp_path_factory.mktemp("bucket")
    with running_platform(tmp_path_factory.mktemp("platform"), "--push", str(bucket)) as running:
        yield running


@pytest.fixture(scope="module")
def deployed(platform: Platform, sources: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """What became of each, asked for with nothing but its files and small defaults."""
    me = a_tenant(platform, "me")
    asked = {}
    for name in MAKERS:
        defaults = {} if name == "audio" else SMALL
        asked[name] = me.deploy(f"me/{name}", me.upload_folder(sources / name), defaults=defaults)
    yield {name: me.ended(url) for name, url in asked.items()}
    me.http.close()


@pytest.mark.parametrize("name", list(FRAMES))
def test_a_video_model_is_tried_with_few_frames_and_shown_moving(
    deployed: dict[str, dict[str, Any]], name: str
) -> None:
    deployment = deployed[name]
    assert deployment["state"] == "ready", deployment
    assert deployment["input_schema"]["properties"]["image_size"]["default"] == SMALL["image_size"]
    tried = deployment["self_test"]
    assert tried["pictures"] == []
    (file,) = tried["files"]
    assert (file["content_type"], file["width"], file["height"]) == ("video/mp4", 64, 32)
    with av.open(io.BytesIO(httpx.get(file["url"]).content), "r") as video:
        assert len(list(video.decode(video=0))) == FRAMES[name]
    kind, _, content = tried["preview"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(content))) as preview:
        assert f"data:image/{str(preview.format).lower()};base64" == kind
        assert preview.width > 1


def test_a_sound_model_is_tried_with_a_few_seconds(deployed: dict[str, dict[str, Any]]) -> None:
    deployment = deployed["audio"]
    assert deployment["state"] == "ready", deployment
    tried = deployment["self_test"]
    (file,) = tried["files"]
    assert (file["content_type"], file["duration"]) == ("audio/wav", 4.0)
    assert tried["preview"] is None
    with wave.open(io.BytesIO(httpx.get(file["url"]).content)) as sound:
        assert any(sound.readframes(sound.getnframes()))


def test_what_is_deployed_lies_and_is_served_where_every_machine_reaches_it(
    platform: Platform, deployed: dict[str, dict[str, Any]]
) -> None:
    with platform.client() as client:
        models = [next(iter(client.models.versions(f"me/{name}"))).model for name in MAKERS]
    (bucket,) = {Path(model.snapshot_uri) for model in models}
    assert bucket.name.startswith("bucket")
    assert set(SnapshotStore(bucket)) == {each["snapshot"] for each in deployed.values()}


def test_the_command_makes_up_a_first_picture_and_saves_the_video(
    platform: Platform, sources: Path, deployed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    words = ("deploy", sources / "svd", "--name", "default/film", "--default", "image_size=64x32")
    done = subprocess.run(
        quickthaw(*words, "--json"),
        env=platform.environment(),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model"]["snapshot_digest"] == deployed["svd"]["snapshot"]
    (saved,) = answer["files"]
    with av.open(io.BytesIO((tmp_path / saved).read_bytes()), "r") as video:
        assert len(list(video.decode(video=0))) == FRAMES["svd"]
