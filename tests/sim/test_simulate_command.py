"""`quickthaw bench simulate` as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.main import execute

SMALL = [
    "--requests",
    "150",
    "--models",
    "30",
    "--tenants",
    "3",
    "--jobs",
    "1",
    "--trace",
    "steady",
]


def simulate(folder: Path, *arguments: str) -> int:
    return execute(["bench", "simulate", "--results", str(folder), *arguments])


def written(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "simulate.json").read_text())
    return document


def test_policies_are_compared_in_a_table_a_file_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--policy", "quickthaw", "--policy", "modelmesh", "--gpus", "6", "--charts"]
    assert simulate(tmp_path, *SMALL, *chosen) == 0
    out = capsys.readouterr().out
    for fact in ("steady", "modelmesh", "p99 s", "█", "Workers (bold: measured here"):
        assert fact in out
    document = written(tmp_path)
    assert document["results"]["steady"]["quickthaw"]["requests"] == 150
    assert document["parameters"]["workers"] == {"h100": 2, "a100-40gb": 2, "l40s": 1, "l4": 1}
    assert (tmp_path / "simulate.png").read_bytes().startswith(b"\x89PNG")


def test_how_many_gpus_and_what_they_cost_is_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--size", "--p99", "40", "--rate", "2", "--gpu", "h100", "--gpu", "l40s"]
    assert simulate(tmp_path, *SMALL, *asked) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Take " in out
    assert "an hour" in out
    assert "With a worker dying now and then" in out
    fleets = written(tmp_path)["results"]["steady"]["fleets"]
    assert {each["gpu_type"] for each in fleets} == {"h100", "l40s"}
    assert all(each["figures"]["p99_seconds"] <= 40 for each in fleets if each["workers"])


def test_first_loads_of_a_short_log_are_no_reason_for_more_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--requests", "10", "--models", "30", "--jobs", "1", "--trace", "steady"]
    assert simulate(tmp_path, *few, "--size", "--p99", "60", "--gpu", "h100") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "began with a load, each of a model that was not there yet" in out
    assert "memory is what is short" not in out


def test_what_each_part_is_worth_is_told_as_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(tmp_path, *SMALL, "--gpus", "4", "--ablate") == 0
    out = capsys.readouterr().out
    assert "no charge for loads" in out
    assert "%" in out


def test_figures_of_several_seeds_are_their_means(tmp_path: Path) -> None:
    asked = [*SMALL, "--gpus", "4", "--policy", "modelmesh"]
    for name, more in (
        ("one", ["--seed", "1"]),
        ("two", ["--seed", "2"]),
        ("both", ["--seeds", "2"]),
    ):
        assert simulate(tmp_path, *asked, *more, "--name", name) == 0
    p99 = {
        name: json.loads((tmp_path / f"{name}.json").read_text())["results"]["steady"]["modelmesh"][
            "p99_seconds"
        ]
        for name in ("one", "two", "both")
    }
    assert p99["one"] != p99["two"]
    assert p99["both"] == pytest.approx((p99["one"] + p99["two"]) / 2)


def test_json_on_stdout_is_what_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(tmp_path, *SMALL, "--gpus", "4", "--policy", "quickthaw", "--json") == 0
    assert json.loads(capsys.readouterr().out)["results"] == written(tmp_path)["results"]


def test_measured_numbers_are_told_apart_from_assumed_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "mine.toml"
    prices.write_text(
        'version = "1"\ndefault_rate_nanodollars_per_second = 1\n'
        "[rates_nanodollars_per_second]\nl40s = 450000\n"
    )
    asked = ["--gpu", "l40s=4", "--policy", "quickthaw", "--prices", str(prices)]
    assert simulate(tmp_path, *SMALL, *asked) == 0
    assert "l40s, price: mine.toml" in capsys.readouterr().out
    assert written(tmp_path)["parameters"]["measured"] == {"l40s, price": "mine.toml"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--trace", "stormy"], "there is no 'stormy'"),
        (["--policy", "luck"], "there is no 'luck'"),
        (["--gpu", "b300"], "there is no 'b300'"),
        (["--gpu", "l4=0"], "from 1 to 100000"),
        (["--gpu", "l4=3", "--gpus", "5"], "the numbers are in --gpu"),
        (["--set", "mu=1"], "no setting 'mu'"),
        (["--set", "load_weight"], "must be NAME=NUMBER"),
        ([*SMALL, "--gpu", "l4=2"], "the largest GPU of this fleet has 24.0"),
        (["--size", "--ablate"], "two questions"),
        (["--size", "--seeds", "2"], "--size searches with one"),
        (["--replay", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--cold-start", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert simulate(tmp_path, *arguments) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "simulate.json").exists()
