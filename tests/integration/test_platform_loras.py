"""LoRAs that requests bring, through the whole platform and fal's own client."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quickthaw.cli.pointing import Place, find_place, variables
from quickthaw.client import Client, JsonObject
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.skeleton import build
from quickthaw.wire.errors import InvalidInput
from support import fal_lora_script
from support.applications import told_by
from support.loras import lora
from support.platform import Platform, quickthaw, running_platform

BASE = "quickthaw/shapes"
INPUT: JsonObject = {
    "prompt": "a red circle above a blue square",
    "seed": 7,
    "num_inference_steps": 4,
}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        return


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(folder, "--set", "gateway.input-allow-private") as running:
        yield running


@pytest.fixture(scope="module")
def files(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two LoRAs of the bundled model; the first one is a model too, for all and for alice."""
    folder = tmp_path_factory.mktemp("files")
    store = SnapshotStore(platform.data_dir / "snapshots")
    with platform.client() as client:
        base = client.models.get(BASE).snapshot_digest
    unet = SimpleNamespace(unet=build(store.open(base).manifest.component("unet")))
    style, other = (
        lora(folder / f"{name}.safetensors", unet, rank=8, seed=seed)
        for seed, name in enumerate(("style", "other"))
    )
    digest = platform.told("snapshot", "pack", style, folder / "packed", "--base", store.root)
    add = ("models", "add", folder / "packed", "--digest", digest["digest"])
    platform.told(*add, "--id", "test/style")
    platform.told(*add, "--id", "alice/secret")
    private = ("visibility=private", "owner_tenant=alice")
    platform.told("endpoint", "set", "alice/secret", *private)
    return SimpleNamespace(folder=folder, style=style, other=other)


def key_of(platform: Platform, tenant: str) -> str:
    with platform.client() as client:
        return client.keys.create(tenant).secret


async def test_fals_client_draws_with_loras_from_everywhere(
    platform: Platform, files: SimpleNamespace
) -> None:
    place = find_place(platform.data_dir)
    pointing = variables("fal", Place(place.url, key_of(platform, "bob"), place.tls_folder))
    with served(files.folder) as web:
        found = await told_by(
            fal_lora_script,
            BASE,
            str(files.style),
            f"{web}/style.safetensors",
            f"{web}/other.safetensors",
            pointing=pointing,
        )
    pictures = {name: each["picture"] for name, each in found.items() if isinstance(each, dict)}
    same = {pictures[name] for name in ("url", "again", "uploaded", "named")}
    assert len(same) == 1, "the file is the same wherever it comes from"
    assert pictures["after"] == pictures["base"]
    assert len({pictures[name] for name in ("base", "url", "half", "both", "inline")}) == 5
    assert found["url"]["loras"] == {"loras[0]": "remote"}
    assert found["again"]["loras"] == found["uploaded"]["loras"] == {"loras[0]": "vram"}
    assert found["both"]["loras"].keys() == {"loras[0]", "loras[1]"}
    # What is another tenant's is told as what is nobody's.
    assert "there is no model 'alice/secret'" in found["secret"]
    assert found["secret"].replace("secret", "") == found["nobodys"].replace("secrex", "")
    assert "404" in found["page"]


def test_its_owner_may_name_a_private_lora_and_nobody_learns_where_it_lies(
    platform: Platform, files: SimpleNamespace
) -> None:
    named: JsonObject = {**INPUT, "loras": [{"path": "alice/secret", "scale": 0.5}]}
    with Client(grpc=platform.ready["grpc"], key=key_of(platform, "alice")) as alice:
        request = alice.run(BASE, named)
        receipt = request.receipt
        assert receipt is not None
        assert receipt.load is not None
        assert [part.name for part in receipt.load.components][-1] == "loras[0]"
        assert "snapshot:" not in json.dumps(alice.get(request.request_id).input)
    with (
        Client(grpc=platform.ready["grpc"], key=key_of(platform, "carol")) as carol,
        pytest.raises(InvalidInput, match=r"loras\[0\].path: there is no model 'alice/secret'"),
    ):
        carol.run(BASE, named)


@pytest.mark.parametrize(
    "path", ["snapshot:" + "0" * 64 + "@/etc", "file:///etc/passwd", "https://x.example/a", "/etc"]
)
def test_a_caller_cannot_send_a_worker_anywhere(path: str, platform: Platform) -> None:
    with platform.client() as client, pytest.raises(InvalidInput, match=r"loras\[0\].path"):
        client.run(BASE, {**INPUT, "loras": [{"path": path}]})


def test_the_command_line_uploads_a_file_of_this_machine(
    platform: Platform, files: SimpleNamespace, tmp_path: Path
) -> None:
    def drawn(*loras: dict[str, object]) -> str:
        words = [f"{name}={value}" for name, value in INPUT.items()]
        named = [f"loras={json.dumps(loras)}"] if loras else []
        answer = platform.told("run", BASE, *words, *named, "--output", tmp_path)
        sha256: str = answer["artifacts"][0]["sha256"]
        return sha256

    base = drawn()
    assert drawn({"path": str(files.style)}) == drawn({"path": "test/style"}) != base
    missing = subprocess.run(
        quickthaw("run", BASE, "prompt=x", 'loras=[{"path": "./none.safetensors"}]'),
        env=platform.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode != 0
    assert "loras[0].path: the file './none.safetensors' cannot be read" in missing.stderr
