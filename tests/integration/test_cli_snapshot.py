"""Snapshots from the command line: packed with defaults of one's own, and brought in one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.main import execute
from quickthaw.cli.snapshots import bring_in
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.snapshot.verify import verify
from support.tiny_models import tiny_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers") / "tiny"
    tiny_sd().save_pretrained(folder)
    return folder


def test_pack_takes_defaults_as_run_takes_inputs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("num_inference_steps=4", "guidance_scale=0", "image_size=48x32")
    flags = [word for pair in given for word in ("--default", pair)]
    assert execute(["snapshot", "pack", str(folder), str(tmp_path), *flags, "--json"]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    schema: Any = SnapshotStore(tmp_path).open(digest).manifest.input_schema
    found = {name: rule.get("default") for name, rule in schema["properties"].items()}
    assert found["num_inference_steps"] == 4
    assert found["guidance_scale"] == 0
    assert found["image_size"] == {"width": 48, "height": 32}
    assert found["num_images"] == 1, "what is not named keeps the family's default"


@pytest.mark.parametrize(
    ("pair", "status", "told"),
    [
        ("steps=4", 2, "sd takes no input 'steps'"),
        ("num_inference_steps=few", 2, "num_inference_steps='few' must be a whole number"),
        ("prompt=x", 1, "defaults.prompt"),
        ("num_inference_steps=0", 1, "defaults.num_inference_steps"),
        ("image_size=33x32", 1, "defaults.image_size"),
    ],
)
def test_a_default_that_no_request_could_give_is_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pair: str,
    status: int,
    told: str,
) -> None:
    found = execute(["snapshot", "pack", str(folder), str(tmp_path / "s"), "--default", pair])
    error = capsys.readouterr().err
    assert (found, told in error) == (status, True), error
    assert list(SnapshotStore(tmp_path / "s")) == []


def test_all_of_a_folder_is_verified_unless_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, pipeline, other = SnapshotStore(tmp_path / "s"), tiny_sd(0), tiny_sd(1)
    other.vae = pipeline.vae
    first, second = sorted((pack(pipeline, store), pack(other, store)))
    assert execute(["snapshot", "verify", str(store.root), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [(each["digest"], each["findings"]) for each in reports] == [(first, []), (second, [])]
    alone = [verify(store.root, each).checked_bytes for each in (first, second)]
    shared = store.component_path(store.open(first).manifest.component("vae").digest)
    less = sum(alone) - sum(each["checked_bytes"] for each in reports)
    assert less == pytest.approx(shared.stat().st_size, rel=0.2), "what both have is read once"

    store.manifest_path(first).write_text("{")
    (vae,) = (part for part in store.open(second).manifest.components if part.name == "vae")
    with store.component_path(vae.digest).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    assert execute(["snapshot", "verify", str(store.root)]) == 1
    told = capsys.readouterr().out
    assert "manifest: " in told
    assert "vae: " in told
    named = ["snapshot", "verify", str(store.root), "--digest", second[:8], "--json"]
    assert execute(named) == 1
    assert json.loads(capsys.readouterr().out)["digest"] == second


def test_a_snapshot_is_pushed_by_as_much_of_its_digest_as_is_unique(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, bucket = SnapshotStore(tmp_path / "s"), SnapshotStore(tmp_path / "bucket")
    digest = pack(tiny_sd(0), store)
    words = ["snapshot", "push", digest[:8], str(bucket.root), "--store", str(store.root)]
    assert execute(words) == 0
    assert list(bucket) == [digest]
    capsys.readouterr()
    words[2] = "00" if not digest.startswith("00") else "11"
    assert execute(words) == 1
    assert f"no snapshot in {store.root}" in capsys.readouterr().err


def test_only_the_snapshot_that_is_asked_for_is_brought_in(tmp_path: Path) -> None:
    source = SnapshotStore(tmp_path / "source")
    wanted, _other = pack(tiny_sd(0), source), pack(tiny_sd(1), source)
    store = SnapshotStore(tmp_path / "store")
    assert bring_in(source.root, wanted, store).digest == wanted
    assert list(store) == [wanted]
