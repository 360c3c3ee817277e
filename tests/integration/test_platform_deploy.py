"""`quickthaw deploy` on a whole platform: tried before it serves, versioned, undone, gone."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quickthaw.client import Client, JsonObject, Scope
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.skeleton import build
from quickthaw.wire.errors import ModelNotFound
from support.loras import lora
from support.platform import Platform, quickthaw, running_platform, until

BASE = "quickthaw/shapes"
STYLE = "me/style"
INPUT: JsonObject = {"prompt": "a red circle above a blue square", "seed": 7}
FAST = ("--default", "num_inference_steps=2")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture(scope="module")
def styles(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two LoRAs of the bundled model."""
    with platform.client() as client:
        digest = client.models.get(BASE).snapshot_digest
    store = SnapshotStore(platform.data_dir / "snapshots")
    unet = SimpleNamespace(unet=build(store.open(digest).manifest.component("unet")))
    folder = tmp_path_factory.mktemp("styles")
    first, second = (
        lora(folder / f"style-{seed}.safetensors", unet, rank=4, seed=seed) for seed in (1, 2)
    )
    return first, second


def call(platform: Platform, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        quickthaw(*words),
        env=platform.environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def told(platform: Platform, folder: Path, *words: str | Path) -> Any:
    done = call(platform, folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def drawn(client: Client, model: str) -> bytes:
    (artifact,) = client.run(model, INPUT).artifacts
    return client.read_artifact(artifact)


def test_a_lora_is_deployed_rolled_back_and_deleted(
    platform: Platform, styles: tuple[Path, Path], tmp_path: Path
) -> None:
    flags = ("--name", STYLE, "--base", "shapes", *FAST)
    first = told(platform, tmp_path, "deploy", styles[0], *flags)
    assert (first["version"], first["visibility"]) == (1, "private")
    (picture,) = first["files"]
    schema = first["model"]["input_schema"]["properties"]
    assert schema["num_inference_steps"]["default"] == 2
    with platform.client() as client:
        # The self-test asked for the very same.
        assert (tmp_path / picture).read_bytes() == drawn(client, STYLE)
        plain: JsonObject = {**INPUT, "num_inference_steps": 2}
        (artifact,) = client.run(BASE, plain).artifacts
        assert client.read_artifact(artifact) != drawn(client, STYLE)
        second = told(platform, tmp_path, "deploy", styles[1], *flags)
        assert second["version"] == 2
        assert drawn(client, STYLE) == (tmp_path / second["files"][0]).read_bytes()
        assert drawn(client, STYLE) != (tmp_path / picture).read_bytes()
        told(platform, tmp_path, "deploy", "rollback", STYLE, "1")
        assert drawn(client, STYLE) == (tmp_path / picture).read_bytes()
        listed = told(platform, tmp_path, "deploy", "versions", STYLE)
        assert [(each["number"], each["current"]) for each in listed] == [(2, False), (1, True)]
        assert not [each.id for each in client.models.list() if each.id.startswith("self-test/")]
        rival = client.keys.create("rival", (Scope.CALL,)).secret
        with Client(grpc=platform.ready["grpc"], key=rival) as other:
            for attempt in (lambda: other.models.get(STYLE), lambda: drawn(other, STYLE)):
                with pytest.raises(ModelNotFound):
                    attempt()
            with pytest.raises(ModelNotFound):
                list(other.models.versions(STYLE))

        told(platform, tmp_path, "deploy", "delete", STYLE)
        with pytest.raises(ModelNotFound):
            drawn(client, STYLE)
        gone = told(platform, tmp_path, "deploy", "gc")
        deployed = {each["model"]["snapshot_digest"] for each in (first, second)}
        assert set(gone["snapshots"]) == deployed
        assert gone["freed_bytes"] > 0
        assert not deployed & set(SnapshotStore(platform.data_dir / "snapshots"))
        assert drawn(client, BASE)


def staged(client: Client) -> list[str]:
    return [each.id for each in client.models.list() if each.id.startswith("self-test/")]


def test_a_deployment_killed_halfway_changes_nothing_and_the_next_one_clears_up(
    platform: Platform, styles: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ("deploy", styles[0], "--name", "me/killed", "--base", "shapes", *FAST)
    process = subprocess.Popen(
        quickthaw(*words, "--test", "num_inference_steps=100"),
        env=platform.environment(),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    with platform.client() as client:
        asyncio.run(until(lambda: bool(staged(client)), "the self-test"))
        process.kill()
        process.wait()
        with pytest.raises(ModelNotFound):
            client.models.get("me/killed")
        assert staged(client)
        assert told(platform, tmp_path, *words)["version"] == 1
        assert not staged(client)
