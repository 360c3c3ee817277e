"""The benchmark from end to end on a tiny model: real loaders, real files, real processes."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.bench import cold_start
from quickthaw.cli.bench.floors import DISK_DEPTHS, HTTP_DEPTHS, Floors
from quickthaw.cli.bench.loopback import STORE, serving
from quickthaw.cli.bench.options import Options
from quickthaw.cli.bench.peers.registry import find
from quickthaw.cli.bench.plot import plot
from quickthaw.cli.bench.recording import write
from quickthaw.cli.bench.rows import From
from quickthaw.cli.main import execute
from support.odd_peers import Crasher, Forgetful, Idler, Liar

pytestmark = pytest.mark.timeout(300)  # a process for each loader, each imports torch

ROUNDS = 2
TINY_GB = 0.03
PEERS = ("safetensors-pread", "torch", "diffusers")
ODD = (
    Liar("liar", "Liar", "torch", "load"),
    Forgetful("forgetful", "Forgetful", "torch", "load"),
    Idler("idler", "Idler", "torch", "load"),
    Crasher("crasher", "Crasher", "torch", "load"),
    Liar("missing", "Missing", "no-such-loader", "load"),
)
ROW_KEYS = {
    "title": str,
    "lane": str,
    "start": str,
    "call": str,
    "seconds": dict,
    "gigabytes_per_second": float,
    "cpu_seconds_per_gigabyte": dict,
    "seconds_by_round": list,
}
"""What whoever reads results may rely on."""
PARAMETERS = {
    *("schema_version", "title", "model", "scale", "digest", "bytes", "tensors", "components"),
    *("device", "gpu", "rounds", "readers", "torch_threads", "seed", "filesystem", "huge_pages"),
    *("versions", "seconds"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, Any]:
    """One run with real loaders and with ones that misbehave in every way."""
    options = Options(
        model="sd15",
        folder=folder / "files",
        peers=(*(find(name) for name in PEERS), *ODD, find("instanttensor")),
        size_gb=TINY_GB,
        rounds=ROUNDS,
    )
    watch = cold_start.Watch(lambda _: None, lambda *_: None, lambda *_: None)
    return cold_start.run(options, watch)


def _failures(written: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in written["results"]["failed"]}


def test_every_loader_is_measured_from_every_tier(written: dict[str, Any]) -> None:
    rows = written["results"]["rows"]
    for lane in ("floors", "quickthaw", "quickthaw-unverified", "quickthaw-fresh", *PEERS):
        for start in ("disk", "page-cache"):
            assert len(rows[f"{lane}/{start}"]["seconds_by_round"]) == ROUNDS
    for key in ("quickthaw/pinned", "quickthaw/remote", "floors/remote"):
        assert rows[key]["seconds"]["p50"] > 0
    assert rows["quickthaw/remote"]["how"] == ["remote"]
    assert rows["quickthaw/disk"]["how"] != ["page_cache"]
    assert rows["floors/disk"]["how"][0] in {depth.words for depth in DISK_DEPTHS}
    assert rows["floors/remote"]["how"][0] in {depth.words for depth in HTTP_DEPTHS}
    assert rows["quickthaw/page-cache"]["how"] == ["page_cache"]


def test_a_peer_with_one_wrong_byte_is_caught_and_its_times_are_not_shown(
    written: dict[str, Any],
) -> None:
    assert "wrong bytes" in _failures(written)["liar"]
    assert "unet: " in _failures(written)["liar"]
    assert not any(key.startswith("liar/") for key in written["results"]["rows"])
    assert not cold_start.succeeded(written)


def test_a_peer_that_leaves_tensors_out_is_caught(written: dict[str, Any]) -> None:
    assert "is missing" in _failures(written)["forgetful"]


def test_mapping_a_file_does_not_count_as_loading_it(written: dict[str, Any]) -> None:
    assert "view of a mapped file" in _failures(written)["idler"]


def test_a_peer_that_crashes_is_reported_with_its_last_words_and_ends_nobody_else(
    written: dict[str, Any],
) -> None:
    assert "status 7" in _failures(written)["crasher"]
    assert "this is the end" in _failures(written)["crasher"]
    assert _failures(written).keys() == {"liar", "forgetful", "idler", "crasher"}


def test_peers_that_cannot_take_part_are_listed_with_what_to_do(written: dict[str, Any]) -> None:
    absent = {each["name"]: each["reason"] for each in written["results"]["absent"]}
    assert absent["missing"] == "not installed: pip install no-such-loader"
    assert absent["instanttensor"] == "needs CUDA"


def test_the_results_have_the_shape_that_readers_rely_on(written: dict[str, Any]) -> None:
    assert {"name", "command", "commit", "cpu", "cores", "time"} <= written.keys()
    assert written["parameters"].keys() == PARAMETERS
    assert written["results"].keys() == {"rows", "absent", "failed", "targets"}
    for key, line in written["results"]["rows"].items():
        assert key.endswith(line["start"])
        for name, kind in ROW_KEYS.items():
            assert isinstance(line[name], kind), (key, name)
        assert line["seconds"].keys() == {"p50", "p95", "min", "max"}
        assert line["seconds"]["min"] <= line["seconds"]["p50"] <= line["seconds"]["p95"]
        if line["lane"] in PEERS:
            assert line["times_quickthaw"]["p50"] > 0
    assert json.loads(json.dumps(written)) == written


def test_our_phases_add_up_to_what_a_load_takes(written: dict[str, Any]) -> None:
    for key in ("quickthaw/disk", "quickthaw-fresh/page-cache", "quickthaw/pinned"):
        line = written["results"]["rows"][key]
        assert sum(line["phases"].values()) == pytest.approx(line["seconds"]["p50"], rel=0.01)
    assert "slab" in written["results"]["rows"]["quickthaw-fresh/disk"]["phases"]


def test_goals_are_judged_or_said_to_be_open(written: dict[str, Any]) -> None:
    goals = {each["goal"]: each for each in written["results"]["targets"]}
    assert goals["disk: times faster than safetensors pread"]["met"] in (True, False)
    assert goals["disk: times faster than Run:ai"]["met"] is None
    for each in goals.values():
        measured = each["measured"]
        if measured is not None:
            met = measured >= each["wanted"] if each["at_least"] else measured <= each["wanted"]
            assert each["met"] is met


def test_a_run_leaves_nothing_behind(written: dict[str, Any], folder: Path) -> None:
    assert list((folder / "files").iterdir()) == []


def test_the_picture_is_a_png(written: dict[str, Any], tmp_path: Path) -> None:
    content = plot(written, tmp_path / "new" / "picture.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.rstrip().endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 1000
    assert height >= 500


def test_a_result_can_be_shown_again(
    written: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(written, tmp_path)
    assert execute(["bench", "show", str(path), "--targets"]) == 0
    shown = capsys.readouterr().out
    assert "from page cache, seconds" in shown
    assert "failed: Liar: wrong bytes" in shown
    assert "left out: Missing: not installed: pip install no-such-loader" in shown
    assert "times faster than diffusers" in shown
    assert execute(["bench", "show", str(path), "--markdown"]) == 0
    table = capsys.readouterr().out
    assert "| **Quickthaw** |" in table
    assert "| safetensors pread |" in table


def test_what_is_no_result_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"name": "placement", "parameters": {}}')
    assert execute(["bench", "show", str(path)]) == 1
    assert "is not a result of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "sd9"], "the models are: sd15, sdxl"),
        (["--peers", "flashback"], "the peers are: runai"),
        (["--tiers", "attic"], "the tiers are: disk, page-cache, pinned"),
        (["--device", "tpu"], "--device is cpu or cuda"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_ones(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--folder", str(tmp_path), "--results", str(tmp_path)]
    assert execute(["bench", "cold-start", *arguments, *folder]) == 2
    assert said in capsys.readouterr().err


def test_a_model_too_large_for_the_machine_is_refused_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quickthaw.cli.bench.choosing.free_disk_bytes", lambda _: 10**9)
    arguments = ["bench", "cold-start", "--model", "flux", "--scale", "1"]
    assert execute([*arguments, "--folder", str(tmp_path), "--results", str(tmp_path)]) == 1
    assert "Flux bf16 takes 34.0 GB" in (said := capsys.readouterr().err)
    assert "disk for 0.1 GB" in said


def test_an_interrupted_run_leaves_no_files_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    command = [sys.executable, "-m", "quickthaw.cli", "bench", "cold-start", "--rounds", "50"]
    model = ["--model", "sd15", "--size-gb", "0.1", "--peers", "torch"]
    places = ["--folder", str(folder), "--results", str(tmp_path / "results")]
    process = subprocess.Popen(
        [*command, *model, *places],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("opening quickthaw"):
                break
        assert list(folder.glob("run-*/store/components/*")), "nothing to be left behind"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody
        assert "interrupted" in process.stderr.read()
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "results").exists()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    from quickthaw.cli.bench.workspace import workspace

    left = tmp_path / "run-1"
    left.mkdir()
    (left / "weights").write_bytes(b"0")
    with workspace(tmp_path, "key", keep=False) as place:
        assert not left.exists()
        with workspace(tmp_path, "other", keep=True):
            assert place.exists(), "a run that lives keeps its files"
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_page_cache_states_are_looked_at(tmp_path: Path) -> None:
    from quickthaw.cli.bench import page_cache
    from quickthaw.snapshot.copiers.cached import cached_fraction

    path = tmp_path / "weights"
    path.write_bytes(bytes(1 << 20))
    for change, wanted in ((page_cache.drop, 0.0), (page_cache.warm, 1.0)):
        change([path])
        with path.open("rb") as file:
            assert cached_fraction(file.fileno(), 1 << 20) == wanted


def test_a_floor_that_read_less_than_all_is_no_floor(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(3 << 20))
    floors = Floors([path], "cpu", "")
    floors.direct()
    os.truncate(path, 1 << 20)
    with pytest.raises(OSError, match="came back short"):
        floors.direct()


def test_a_floor_over_http_that_fetched_less_than_all_is_no_floor(tmp_path: Path) -> None:
    path = tmp_path / "components" / "weights"
    path.parent.mkdir()
    path.write_bytes(bytes(3 << 20))
    with serving({STORE: tmp_path}) as url:
        floors = Floors([path], "cpu", url)
        floors.remote()
        os.truncate(path, 1 << 20)
        with pytest.raises(OSError, match="came back short"):
            floors.remote()
        path.unlink()
        with pytest.raises(OSError, match="404"):
            floors.remote()


def test_tiers_are_measured_in_one_order_whatever_was_asked(tmp_path: Path) -> None:
    from quickthaw.cli.bench.rows import rows_for

    rows = rows_for([From.PINNED], [find("torch")], "cpu")
    assert [row.key for row in rows] == ["floors/pinned", "quickthaw/pinned"]
