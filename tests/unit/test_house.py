"""The house rules that no linter knows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from bench.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]
MODULE_LINES_MAX = 400
PARTS_OF_A_BENCHMARK = {
    "options_start": "one process of `bench.options`, which starts it",
}
"""Modules of `bench` that are run, though not by a person, and why."""


def _committed_or_new(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def test_no_root_hides_the_others_with_an_init_file() -> None:
    stray = [
        path.relative_to(ROOT)
        for path in _committed_or_new("*.py")
        if path.parts[-2:] == ("quickthaw", "__init__.py")
    ]
    assert stray == [], "quickthaw is a namespace package: this file hides every other component"


def test_modules_stay_rooms_and_do_not_become_warehouses() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in _committed_or_new("*.py")
        if not path.stem.endswith(("_pb2", "_pb2_grpc"))
        and (lines := len(path.read_text().splitlines())) > MODULE_LINES_MAX
    }
    assert long == {}


@pytest.mark.parametrize(
    "component", ["wire", "snapshot", "worker", "scheduler", "gateway", "client", "cli"]
)
def test_every_component_tells_checkers_that_it_is_typed(component: str) -> None:
    roots = list(ROOT.glob(f"*/quickthaw/{component}/py.typed"))
    assert len(roots) == 1


def test_channels_and_credentials_are_made_in_one_place() -> None:
    making = re.compile(r"\b(?:in)?secure_channel\(|\bssl_\w*credentials\(|ssl_server_credentials")
    elsewhere = [
        str(path.relative_to(ROOT))
        for path in _committed_or_new("*.py")
        if path.parts[-3:-1] != ("quickthaw", "wire")
        and path.relative_to(ROOT).parts[0] not in ("tests", "bench")
        and making.search(path.read_text())
    ]
    assert elsewhere == []


def test_every_benchmark_is_run_with_the_others() -> None:
    runnable = {
        path.stem
        for path in (ROOT / "bench").glob("*.py")
        if path.stem != "__main__" and 'if __name__ == "__main__":' in path.read_text()
    }
    run = {
        module.removeprefix("bench.")
        for module, *_ in BENCHMARKS.values()
        if module.startswith("bench.")
    }
    assert runnable - set(PARTS_OF_A_BENCHMARK) == run
