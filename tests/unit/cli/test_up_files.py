"""The data directory's lock, and what others read from it."""

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from quickthaw.cli.up.datadir import KeptFiles, check_free, locked, write_json, write_targets
from quickthaw.cli.up.process import Output, parse_ready_line
from quickthaw.wire.errors import AddressInUse, FailedPrecondition, SettingsInvalid, StorageFull
from quickthaw.wire.process import Address


def test_a_second_platform_on_the_same_directory_is_refused_with_the_firsts_pid(
    tmp_path: Path,
) -> None:
    with locked(tmp_path), pytest.raises(FailedPrecondition, match=f"pid {os.getpid()}"):  # noqa: SIM117
        with locked(tmp_path):
            pass


def test_the_lock_of_a_killed_platform_is_no_obstacle(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from quickthaw.cli.up.datadir import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert (tmp_path / "up.lock").read_text().strip().isdigit()
    with locked(tmp_path):
        assert (tmp_path / "up.lock").read_text() == f"{os.getpid()}\n"


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsInvalid, match="file/data"), locked(file / "data"):
        pass


def test_a_full_disk_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageFull, match=f"{tmp_path}: no space left"), locked(tmp_path):
        pass


def test_an_address_in_use_is_found_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"--grpc.*127\.0\.0\.1:{port}"):
            check_free("the scheduler (--grpc)", Address("127.0.0.1", port))
    check_free("the scheduler (--grpc)", Address("127.0.0.1", 0))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match=r"192\.0\.2\.1:80"):
        check_free("the gateway", Address("192.0.2.1", 80))


def test_prometheus_is_told_every_part(tmp_path: Path) -> None:
    write_targets(
        tmp_path,
        {"scheduler": "http://127.0.0.1:1/metrics", "worker-a-0": "http://[::1]:2/metrics"},
    )
    scheduler, worker = json.loads((tmp_path / "prometheus-targets.json").read_text())
    assert scheduler["targets"] == ["127.0.0.1:1"]
    assert scheduler["labels"]["component"] == "scheduler"
    assert worker["targets"] == ["[::1]:2"]
    assert worker["labels"]["component"] == "worker"
    assert worker["labels"]["__metrics_path__"] == "/metrics"


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"pid": 1})
    write_json(tmp_path / "run.json", {"pid": 2})
    assert json.loads((tmp_path / "run.json").read_text()) == {"pid": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_only_the_parts_own_ready_line_counts() -> None:
    line = "quickthaw-scheduler ready grpc=127.0.0.1:7 metrics=http://h/m?a=b"
    assert parse_ready_line(line, "quickthaw-scheduler") == {
        "grpc": "127.0.0.1:7",
        "metrics": "http://h/m?a=b",
    }
    assert parse_ready_line(line, "quickthaw-worker") is None
    assert parse_ready_line("INFO quickthaw-scheduler ready", "quickthaw-scheduler") is None
    assert parse_ready_line("", "quickthaw-scheduler") is None


async def test_what_runs_where_is_written_again_when_the_disk_has_room(tmp_path: Path) -> None:
    folder, told, written = tmp_path / "data", asyncio.Queue[str](), asyncio.Event()

    def write() -> None:
        write_json(folder / "run.json", {})
        written.set()

    files = KeptFiles(write, told.put_nowait, retry_seconds=0.01)
    keeping = asyncio.create_task(files.keep())
    files.changed.set()
    assert "what runs where cannot be written: [Errno 2]" in await told.get()
    folder.mkdir()
    await written.wait()
    assert not keeping.done()
    keeping.cancel()


async def test_a_log_that_cannot_be_written_loses_lines_says_so_once_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full, log = Path("/dev/full"), tmp_path / "worker.log"
    log.symlink_to(full)
    process = asyncio.StreamReader()
    output = Output(log, "quickthaw-worker")
    pump = asyncio.create_task(output.pump(process))
    process.feed_data(b"one\ntwo\nquickthaw-worker ready\n")
    await output.ready
    (said,) = caplog.messages
    assert said == f"{log} cannot be written; lines are lost until it can"
    log.unlink()
    process.feed_data(b"three\n")
    process.feed_eof()
    await pump
    assert log.read_text() == "three\n"
    assert output.last_lines == ("one", "two", "quickthaw-worker ready", "three")
