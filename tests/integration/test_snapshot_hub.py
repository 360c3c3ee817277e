"""Packing from the hub, against one on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.remote.hub import fetch_pipeline
from quickthaw.wire.errors import InvalidArgument
from support.fake_hub import FakeHub
from support.platform import quickthaw
from support.tiny_models import tiny_sd


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A pipeline with what must not be fetched beside it, and the digest that it packs to."""
    folder = tmp_path_factory.mktemp("repository")
    tiny_sd(0).save_pretrained(folder)
    digest = pack(folder, SnapshotStore(tmp_path_factory.mktemp("same")))
    for name in ("model.safetensors", "unet/diffusion_pytorch_model.bin", "run.py", "README.md"):
        (folder / name).write_bytes(b"not wanted")
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not wanted")
    # Another form of the model beside it, and another model.
    for place in ("transformer_fp8", "safety_checker", "assets"):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "model.safetensors").write_bytes(b"not wanted")
        (folder / place / "config.json").write_bytes(b"{}")
    return folder, digest


@pytest.fixture
def repository(packed: tuple[Path, str]) -> Path:
    return packed[0]


def command(hub: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_TOKEN": "hf_secret"}
    return subprocess.run(
        quickthaw("snapshot", "pack", *arguments),
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_a_repository_is_packed_and_nothing_but_safetensors_fetched(
    packed: tuple[Path, str], tmp_path: Path
) -> None:
    repository, wanted = packed
    with FakeHub(repository) as hub:
        done = command(hub.url, tmp_path / "home", "hf:owner/tiny@main", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    digest = done.stdout.strip()
    assert digest == wanted
    assert digest in SnapshotStore(tmp_path / "store")
    assert "model.safetensors" not in hub.fetched
    parts = {name.partition("/")[0] for name in hub.fetched}
    assert parts == {"model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"}
    assert {Path(name).suffix for name in hub.fetched} <= {".json", ".safetensors", ".txt"}
    assert not [name for name in hub.fetched if "fp16" in name]


ASK = """
import sys
from quickthaw.snapshot.remote.hub import fetch_pipeline
from quickthaw.wire.errors import QuickthawError
for name in sys.argv[1:]:
    try:
        print(fetch_pipeline(name))
    except QuickthawError as error:
        print(error.reason, error.message)
"""


def asked(hub: str, home: Path, *names: str) -> list[str]:
    """What is said of each name. The library reads its address when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_TOKEN": "hf_secret"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )
    assert "hf_secret" not in done.stdout + done.stderr
    return done.stdout.splitlines()


def test_what_the_hub_does_not_give_is_said_plainly(repository: Path, tmp_path: Path) -> None:
    with FakeHub(repository) as hub:
        revision, gated, unknown = asked(
            hub.url, tmp_path, "hf:owner/tiny@nowhere", "hf:owner/gated", "hf:owner/unknown"
        )
    assert "NOT_FOUND hf:owner/tiny@nowhere: the repository has no such revision" in revision
    assert "PERMISSION_DENIED hf:owner/gated" in gated
    assert "accept its terms there and set HF_TOKEN" in gated
    assert "NOT_FOUND hf:owner/unknown: the hub has no such repository" in unknown


def test_what_broke_off_goes_on_from_there_and_what_is_there_stays(tmp_path: Path) -> None:
    piece = 10 << 20  # What the library writes at a time.
    content = bytes(range(256)) * (3 * piece // 256)
    weights = "unet/diffusion_pytorch_model.safetensors"
    repository = tmp_path / "repository"
    (repository / "unet").mkdir(parents=True)
    (repository / weights).write_bytes(content)
    (repository / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet"]}))
    with FakeHub(repository) as hub:
        hub.cut[weights] = 2 * piece + 1000
        first, second = asked(hub.url, tmp_path / "home", "hf:owner/tiny", "hf:owner/tiny@main")
    assert (Path(first) / weights).read_bytes() == content
    assert second == first
    assert hub.begun_at == {"model_index.json": [0], weights: [0, 2 * piece]}


def test_a_repository_in_another_form_is_named_with_what_to_look_for(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "model.safetensors").write_bytes(b"not wanted")
    with FakeHub(tmp_path / "repository") as hub:
        (said,) = asked(hub.url, tmp_path / "home", "hf:owner/tiny")
    assert not hub.fetched
    assert said.startswith("INVALID_ARGUMENT hf:owner/tiny: has no model_index.json")
    assert "ends in -Diffusers" in said


def test_a_hub_that_is_away_is_named(tmp_path: Path) -> None:
    (said,) = asked("http://127.0.0.1:9", tmp_path, "hf:owner/tiny")
    assert said.startswith("STORE_UNAVAILABLE hf:owner/tiny: the hub cannot be reached")


@pytest.mark.parametrize("name", ["hf:", "hf:tiny", "hf:a/b/c", "hf:a/../b", "hf:a/b@", "hf:a/b c"])
def test_what_is_no_hub_name_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(InvalidArgument, match="no hub name"):
        fetch_pipeline(name)
