"""What a compiler that was killed leaves in a cache, and who takes it away."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quickthaw.snapshot.compiled import BuildPlace, CompiledCache, build_missing, scratch
from quickthaw.snapshot.compiled.scratch import scratch_file, scratch_folder, sweep
from quickthaw.snapshot.compiled.seal import private_folder
from quickthaw.wire.errors import Internal

WORKING = """
import sys
from pathlib import Path
from quickthaw.snapshot.compiled.scratch import scratch_file, scratch_folder

root = Path(sys.argv[1])
with scratch_folder(root) as folder, scratch_file(root / "environment" / "block.so"):
    (folder / "block.cpp").write_text("int main() {}")
    print("working", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "compiled" / "environment").mkdir(parents=True)
    (tmp_path / "compiled").chmod(0o700)
    return tmp_path / "compiled"


def test_what_a_killed_process_worked_on_goes_at_the_next_start_and_not_before_it_is_dead(
    root: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKING, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        left = {path for path in root.rglob("*") if path.name != "environment"}
        assert len(left) == 3
        sweep(root)
        assert all(path.exists() for path in left)
        process.send_signal(signal.SIGKILL)
        process.wait()
    cache = CompiledCache(root, root.with_name("key"), torch.device("cpu"))
    assert {path.name for path in root.rglob("*")} == {"environment", cache.folder.name}


def fail_at_work(root: Path) -> None:
    with scratch_folder(root) as folder, scratch_file(root / "environment" / "block.so"):
        (folder / "block.cpp").write_text("int main() {}")
        raise RuntimeError


def test_what_fails_leaves_nothing(root: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_at_work(root)
    assert [path.name for path in root.rglob("*")] == ["environment"]


def test_a_compiling_process_that_fails_leaves_nothing(root: Path, tmp_path: Path) -> None:
    place = BuildPlace(root, tmp_path / "key", "cpu", threads=1)
    with pytest.raises(Internal, match="status 1"):
        build_missing(place, tmp_path / "no-store", "0" * 64, [])
    assert not list(root.glob("work-*"))


def test_a_file_takes_its_name_only_when_it_is_whole(root: Path) -> None:
    target = root / "environment" / "block.so"
    with scratch_file(target) as descriptor:
        assert not target.exists()
        with open(descriptor, "wb", closefd=False) as file:
            file.write(b"code")
    assert target.read_bytes() == b"code"
    assert target.stat().st_mode & 0o777 == 0o600


def test_what_is_swept_before_it_is_locked_is_made_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process starts at that very moment."""
    make, lock, swept = private_folder, fcntl.flock, list[str]()

    def make_and_sweep(path: Path) -> Path:
        made = make(path)
        if "folder" not in swept:
            swept.append("folder")
            sweep(root)
        return made

    def sweep_and_lock(descriptor: int, kind: int) -> None:
        if kind == fcntl.LOCK_EX and "file" not in swept:
            swept.append("file")
            sweep(root)
        lock(descriptor, kind)

    monkeypatch.setattr(scratch, "private_folder", make_and_sweep)
    with scratch_folder(root) as folder:
        assert folder.is_dir()
    monkeypatch.setattr(fcntl, "flock", sweep_and_lock)
    with scratch_file(root / "environment" / "block.so") as descriptor:
        os.write(descriptor, b"code")
    assert (root / "environment" / "block.so").read_bytes() == b"code"
    assert swept == ["folder", "file"]
