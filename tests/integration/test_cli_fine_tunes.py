"""Fine-tunes from the command line: packed over a base, compared with it, looked into."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.main import execute
from support.deltas import tuned_sd
from support.loras import lora
from support.tiny_models import tiny_sd

CHANGED = ("conv_in.weight", "conv_out.bias")


@dataclass(frozen=True)
class Packed:
    store: Path
    base: str
    tuned: str
    style: str


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert execute([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a fine-tune as diffusers saves them, and a LoRA file."""
    folder = tmp_path_factory.mktemp("fine-tunes")
    tiny_sd(0).save_pretrained(folder / "base")
    tuned_sd(*CHANGED).save_pretrained(folder / "tuned")
    lora(folder / "style.safetensors", tiny_sd(0))
    return folder


@pytest.fixture
def packed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Packed:
    store = tmp_path / "store"
    base = answer(capsys, "snapshot", "pack", folder / "base", store)["digest"]
    over = ("--base", base[:12])
    tuned = answer(capsys, "snapshot", "pack", folder / "tuned", store, *over)["digest"]
    style = folder / "style.safetensors"
    flags = (*over, "--scale", "0.5", "--default", "num_inference_steps=4")
    return Packed(
        store,
        base,
        tuned,
        answer(capsys, "snapshot", "pack", style, store, *flags)["digest"],
    )


def test_inspect_says_what_is_stored_of_a_fine_tune(
    packed: Packed, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {
        part["name"]: part
        for part in answer(capsys, "snapshot", "inspect", packed.store, "--digest", packed.tuned)[
            "components"
        ]
    }
    assert parts["unet"]["delta"]["layers"] == 1
    assert parts["unet"]["stored_bytes"] < parts["unet"]["file_bytes"] / 10
    assert parts["vae"]["delta"] is None
    execute(["snapshot", "inspect", str(packed.store), "--digest", packed.tuned])
    assert "unet: 1 layer(s) over" in capsys.readouterr().out


def test_inspect_says_what_a_lora_is(packed: Packed, capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "snapshot", "inspect", packed.store, "--digest", packed.style)
    (adapter,) = (part["adapter"] for part in told["components"] if part["adapter"])
    assert adapter == {"target": "unet", "rank": 4, "alpha": 4.0, "scale": 0.5}
    assert told["defaults"]["num_inference_steps"] == 4
    execute(["snapshot", "inspect", str(packed.store), "--digest", packed.style])
    assert "LoRA of unet, rank 4" in capsys.readouterr().out


def test_diff_says_what_differs_and_what_it_costs(
    packed: Packed, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--in", packed.store)
    told = answer(capsys, "snapshot", "diff", packed.base[:10], packed.tuned[:10], *flags)
    lines = {line["name"]: line for line in told["components"]}
    assert {name: line["change"] for name, line in lines.items()} == {
        "text_encoder": "same",
        "unet": "weights",
        "vae": "same",
    }
    assert lines["unet"]["changed_tensors"] == len(CHANGED)
    assert 0 < lines["unet"]["changed_bytes"] <= lines["unet"]["load_bytes"]
    assert told["load_bytes"] < told["data_bytes"] / 10
    back = answer(capsys, "snapshot", "diff", packed.tuned, packed.base, *flags)
    assert back["load_bytes"] == lines["unet"]["data_bytes"], "the base is stored in full"
    style = answer(capsys, "snapshot", "diff", packed.base, packed.style, *flags)
    assert [line["name"] for line in style["components"] if line["change"] == "added"] == [
        "lora_unet"
    ]
    execute(["snapshot", "diff", packed.tuned, packed.base, "--in", str(packed.store)])
    assert "packed with --base" in capsys.readouterr().out


def test_diff_of_a_digest_that_is_not_there_names_it(
    packed: Packed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["snapshot", "diff", packed.base, "0000000", "--in", str(packed.store)]) != 0
    assert "0000000" in capsys.readouterr().err


def test_a_lora_without_its_base_is_told_what_to_give(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = folder / "style.safetensors"
    assert execute(["snapshot", "pack", str(style), str(tmp_path / "s")]) != 0
    assert "give its base" in capsys.readouterr().err
    assert execute(["snapshot", "pack", str(style), str(tmp_path / "s"), "--base", "abcdef0"]) != 0
    assert "abcdef0" in capsys.readouterr().err
