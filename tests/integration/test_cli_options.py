"""Eight-bit packing and compiling ahead, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quickthaw.cli.main import execute
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.tiny_models import tiny_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers") / "tiny"
    tiny_sd().save_pretrained(folder)
    return folder


def test_pack_stores_the_components_that_are_named_in_eight_bits(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--quantize", "int8", "--only", "denoiser"]
    assert execute(["snapshot", "pack", str(folder), str(tmp_path), *flags]) == 0
    capsys.readouterr()
    assert execute(["snapshot", "inspect", str(tmp_path), "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["components"]
    assert {part["name"]: part["quantization"] for part in parts} == {
        "text_encoder": None,
        "unet": "int8",
        "vae": None,
    }
    assert execute(["snapshot", "inspect", str(tmp_path)]) == 0
    assert "int8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--quantize", "int4"], "must be fp8 or int8"),
        (["--quantize", "fp8", "--only", "unet,nose"], "no component 'nose'"),
        (["--only", "unet"], "give --quantize too"),
    ],
)
def test_a_wrong_wish_is_told_by_name(
    flags: list[str],
    told: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert execute(["snapshot", "pack", str(folder), str(tmp_path / "s"), *flags]) == 1
    assert told in " ".join(capsys.readouterr().err.split())


def test_compile_says_what_is_wrong_with_what_it_was_given(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = SnapshotStore(tmp_path / "store")
    digest = pack(tiny_sd(), store)
    given = ["--store", str(store.root), "--cache", str(tmp_path / "compiled")]
    assert execute(["snapshot", "compile", "feed", *given]) == 1
    assert "feed" in capfd.readouterr().err
    assert execute(["snapshot", "compile", digest[:12], *given, "--shapes", "large"]) == 1
    assert "must be WIDTHxHEIGHT" in capfd.readouterr().err
    assert execute(["snapshot", "compile", digest[:12], *given, "--device", "gpu"]) == 1
    assert "must be cpu, cuda or cuda:N" in capfd.readouterr().err
    assert not (tmp_path / "compiled").exists()


def test_compile_teaches_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["snapshot", "compile", "--help"]) == 0
    assert "quickthaw snapshot compile 3f8a" in capsys.readouterr().out
