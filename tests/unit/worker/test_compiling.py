"""Whether and how a worker comes to compiled code; running it is `integration/test_compiled`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quickthaw.wire.errors import InvalidArgument, SettingsInvalid
from quickthaw.worker.compile import Size
from quickthaw.worker.compiling import open_compiled
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.settings import WorkerSettings, parse

CPU = torch.device("cpu")


def settings(data_dir: Path, *flags: str) -> WorkerSettings:
    arguments = ["--scheduler", "127.0.0.1:1", "--data-dir", str(data_dir), *flags]
    return parse(arguments, {"QUICKTHAW_KEY": "key"})


def test_compiled_code_is_off_unless_asked_for(tmp_path: Path) -> None:
    given = settings(tmp_path)
    assert given.compiled == "off"
    assert open_compiled(given, CPU, tmp_path, None) is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingsInvalid, match=r"--compiled is 'always'.*off, use, build"):
        settings(tmp_path, "--compiled", "always")


def test_the_cache_is_the_workers_own_or_the_one_named(tmp_path: Path) -> None:
    assert open_compiled(settings(tmp_path, "--compiled", "use"), CPU, tmp_path, None) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compiled", "compiled.key"]
    elsewhere = tmp_path / "shared" / "code"
    given = settings(tmp_path, "--compiled", "use", "--compiled-cache", str(elsewhere))
    assert open_compiled(given, CPU, tmp_path, WorkerMetrics()) is not None
    assert elsewhere.is_dir()
    assert elsewhere.with_name("code.key").is_file()


def test_a_worker_without_a_compiler_starts_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert open_compiled(settings(tmp_path, "--compiled", "build"), CPU, tmp_path, None) is None
    assert "apt-get install g++" in caplog.text
    # What was compiled before needs none.
    assert open_compiled(settings(tmp_path, "--compiled", "use"), CPU, tmp_path, None) is not None


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024x768", Size(1024, 768, 1)), (" 64x64x4 ", Size(64, 64, 4))],
)
def test_shapes_are_read_as_they_are_written(text: str, size: Size) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "64", "64x", "64x64x", "-1x64", "64x64x4x1", "64×64"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="WIDTHxHEIGHT"):
        Size.parse(text)
