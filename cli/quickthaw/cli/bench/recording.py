"""What a benchmark writes down: its numbers, and all that is needed to judge or repeat them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def document(
    name: str, command: str, parameters: Mapping[str, object], results: Mapping[str, object]
) -> dict[str, object]:
    """One run as JSON. `parameters` include the seed, if any."""
    return {
        "name": name,
        "command": command.strip(),
        "parameters": dict(parameters),
        "results": dict(results),
        "commit": _commit(),
        "version": _version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(written: Mapping[str, object], folder: Path) -> Path:
    """Writes `<name>.json`. The newest run of a name replaces the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{written['name']}.json"
    path.write_text(json.dumps(written, indent=2) + "\n")
    return path


def _version() -> str:
    try:
        return version("quickthaw")
    except PackageNotFoundError:  # run from its source folders
        return "unknown"


def _commit() -> str:
    """The commit, with `+changes` if the tree had any in what git tracks."""
    here = Path(__file__)
    try:
        # An installed copy may lie inside somebody else's repository.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        commit = _git(here.parent, "rev-parse", "HEAD")
        changed = _git(here.parent, "status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        "unknown",
    )
