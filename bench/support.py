"""What every benchmark writes down: its numbers, and all that is needed to judge or repeat them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def record(
    name: str,
    parameters: Mapping[str, object],
    results: Mapping[str, object],
    folder: Path = RESULTS,
) -> Path:
    """Writes `<name>.json` to `folder` and prints it. `parameters` include the seed, if any.

    The newest run of a name replaces the one before: git has the history, beside the code.
    """
    written = {
        "name": name,
        "command": f"python -m bench.{name} {' '.join(sys.argv[1:])}".strip(),
        "parameters": dict(parameters),
        "results": dict(results),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(written, indent=2)
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(text + "\n")
    print(text)
    return path


def quantile(values: list[float], share: float) -> float:
    """Of values in any order; `share` is between 0 and 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _commit() -> str:
    """The commit, with `+changes` if the tree had any in what git tracks."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return f"{commit}+changes" if _git(here, "status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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
