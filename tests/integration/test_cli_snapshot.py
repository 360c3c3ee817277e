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


def test_only_the_snapshot_that_is_asked_for_is_brought_in(tmp_path: Path) -> None:
    source = SnapshotStore(tmp_path / "source")
    wanted, _other = pack(tiny_sd(0), source), pack(tiny_sd(1), source)
    store = SnapshotStore(tmp_path / "store")
    assert bring_in(source.root, wanted, store).digest == wanted
    assert list(store) == [wanted]
