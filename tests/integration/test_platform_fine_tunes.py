"""A LoRA of the bundled model, through the whole platform: the picture changes, and returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from quickthaw.client import Client, JsonObject, Request, Tier
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.skeleton import build
from support.loras import lora
from support.platform import Platform, running_platform

BASE = "quickthaw/shapes"
STYLE = "test/style"
INPUT: JsonObject = {
    "prompt": "a red circle above a blue square",
    "seed": 7,
    "num_inference_steps": 4,
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("platform")) as running:
        yield running


def picture(client: Client, request: Request) -> bytes:
    (artifact,) = request.artifacts
    return client.read_artifact(artifact)


def test_a_lora_changes_the_picture_and_its_base_draws_as_before(
    platform: Platform, tmp_path: Path
) -> None:
    store = SnapshotStore(platform.data_dir / "snapshots")
    with platform.client() as client:
        base = client.models.get(BASE).snapshot_digest
        unet = store.open(base).manifest.component("unet")
        style = lora(tmp_path / "style.safetensors", SimpleNamespace(unet=build(unet)), rank=8)
        before = picture(client, client.run(BASE, INPUT))
        folder = tmp_path / "packed"
        digest = platform.told("snapshot", "pack", style, folder, "--base", store.root)["digest"]
        platform.told("models", "add", folder, "--id", STYLE, "--digest", digest)
        drawn = client.run(STYLE, INPUT)
        receipt = drawn.receipt
        assert receipt is not None
        assert receipt.load is not None
        parts = receipt.load.components
        read = {part.name: part.size_bytes for part in parts if part.source is Tier.DISK}
        adapter = store.open(digest).manifest.component("lora_unet")
        assert read == {"lora_unet": adapter.data_bytes}
        assert picture(client, drawn) != before
        assert picture(client, client.run(BASE, INPUT)) == before
        assert picture(client, client.run(STYLE, INPUT)) == picture(client, drawn)
