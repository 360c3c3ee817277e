"""`quickthaw up` with the real parts: up, down, and whatever may happen in between."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack
from support.patience import PATIENCE_SECONDS
from support.platform import Platform, quickthaw, running_platform
from support.tiny_models import tiny_sd

SMALL = ("--vram-bytes", "256MiB", "--pinned-bytes", "64MiB")
ANYWHERE = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("data"), *SMALL) as started:
        yield started


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {PATIENCE_SECONDS:g} s"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run_file(platform: Platform) -> dict[str, object]:
    content: dict[str, object] = json.loads((platform.data_dir / "run.json").read_text())
    return content


def call(platform: Platform, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        quickthaw(*arguments),
        env=platform.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_what_the_ready_line_promises_holds(platform: Platform) -> None:
    key_file = Path(platform.ready["key-file"])
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert run_file(platform)["grpc"] == platform.ready["grpc"]
    with urllib.request.urlopen(platform.ready["metrics"]) as answer:
        assert b"quickthaw_" in answer.read()
    assert platform.ready["http"].startswith("http://127.0.0.1:")
    (worker,) = json.loads(call(platform, "workers", "--json").stdout)
    assert worker["state"] == "ready"
    assert worker["gpu_type"] == "cpu"


def test_prometheus_finds_every_part(platform: Platform) -> None:
    targets = json.loads((platform.data_dir / "prometheus-targets.json").read_text())
    assert sorted(t["labels"]["component"] for t in targets) == ["gateway", "scheduler", "worker"]
    for target in targets:
        url = f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}"
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200


def test_a_second_up_on_the_same_directory_is_refused(platform: Platform) -> None:
    done = call(platform, "up", "--data-dir", platform.data_dir, *ANYWHERE)
    assert done.returncode == 1
    assert f"pid {platform.process.pid}" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("option", ["--http", "--grpc", "--metrics"])
def test_a_port_in_use_is_named_and_nothing_is_left(option: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        chosen = dict.fromkeys(("--http", "--grpc", "--metrics"), "127.0.0.1:0")
        chosen[option] = address
        arguments = [part for pair in chosen.items() for part in pair]
        done = subprocess.run(
            quickthaw("up", "--data-dir", tmp_path, *arguments),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert address in error
    assert option in error
    assert not (tmp_path / "logs").exists()


def test_a_packed_model_is_added_run_explained_and_billed(
    platform: Platform, tmp_path: Path
) -> None:
    pack(tiny_sd(), SnapshotStore(tmp_path / "snapshot"))
    added = call(platform, "models", "add", tmp_path / "snapshot", "--id", "me/tiny", "--json")
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["changed"]

    drawing = ("prompt=a red circle", "num_inference_steps=2", "image_size=32x32", "seed=7")
    done = call(platform, "run", "me/tiny", *drawing, "--json", "--output", tmp_path / "pictures")
    assert done.returncode == 0, done.stdout + platform.logs()
    answer = json.loads(done.stdout)
    receipt = answer["receipt"]
    assert receipt["start_tier"] == "disk"
    assert receipt["load"]["skeleton_seconds"] > 0
    assert receipt["load"]["first_step_seconds"] > 0
    assert receipt["load"]["encode_seconds"] > 0
    (picture,) = answer["files"]
    assert Path(picture).read_bytes().startswith(b"\x89PNG")

    explained = call(platform, "explain", answer["request_id"], "--json")
    (decision,) = json.loads(explained.stdout)["decisions"]
    assert decision["chosen_worker_id"] == receipt["worker_id"]
    usage = json.loads(call(platform, "usage", "--json").stdout)
    (line,) = [each for each in usage["lines"] if each["model"] == "me/tiny"]
    assert line["price_nanodollars"] == receipt["price_nanodollars"]
    shown = call(platform, "run", "me/tiny", *drawing, "--output", tmp_path / "pictures")
    assert "(warm)" in shown.stdout

    wrong = call(platform, "run", "me/tiny", "prompt=x", "num_images=999")
    assert wrong.returncode == 1
    assert "num_images" in wrong.stderr


@pytest.mark.parametrize("part", ["scheduler", "gateway", "packer", "worker"])
def test_a_killed_part_comes_back_where_it_was(platform: Platform, part: str) -> None:
    name = platform.workers()[0] if part == "worker" else part
    before = platform.kill(name)
    wait_until(lambda: platform.pids().get(name) not in (None, before), f"a new {part}")
    assert {key: run_file(platform)[key] for key in ("grpc", "http", "metrics")} == {
        key: platform.ready[key] for key in ("grpc", "http", "metrics")
    }
    with platform.client() as client:
        wait_until(lambda: [w.state for w in client.workers.list()] == ["ready"], "a ready worker")


def test_sigterm_stops_every_part_and_exits_0(tmp_path: Path) -> None:
    with running_platform(tmp_path, *SMALL) as platform:
        pids = platform.pids()
        assert len(pids) == 4
        assert platform.stop() == 0
    assert all(gone(pid) for pid in pids.values())
    assert not (tmp_path / "run.json").exists()


def test_when_up_itself_is_killed_nothing_lingers_and_it_starts_again(tmp_path: Path) -> None:
    with running_platform(tmp_path, *SMALL) as platform:
        pids, key = platform.pids(), platform.key
        os.kill(platform.process.pid, signal.SIGKILL)
        wait_until(lambda: all(gone(pid) for pid in pids.values()), "the end of every part")
    with running_platform(tmp_path, *SMALL) as again:
        assert again.key == key


def test_a_part_that_cannot_start_ends_up_with_its_own_words(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("this is no price table")
    done = subprocess.run(
        quickthaw("up", "--data-dir", tmp_path / "data", "--prices", prices, *ANYWHERE),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "error: the scheduler ended with status" in done.stderr
    assert str(prices) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_cannot_start_ends_up_with_its_own_words(tmp_path: Path) -> None:
    done = subprocess.run(
        quickthaw("up", "--data-dir", tmp_path / "data", "--vram-bytes", "plenty", *ANYWHERE),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "--vram-bytes" in done.stderr
    assert "'plenty' is no size" in done.stderr
