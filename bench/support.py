"""What every benchmark writes down: its numbers, and all that is needed to judge or repeat them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from quickthaw.cli.bench import recording

RESULTS = Path(__file__).parent / "results"


def record(
    name: str,
    parameters: Mapping[str, object],
    results: Mapping[str, object],
    folder: Path = RESULTS,
    module: str = "",
) -> Path:
    """Writes `<name>.json` to `folder` and prints it. `parameters` include the seed, if any;
    `module` is the benchmark's, if it is not named as its result.

    The newest run of a name replaces the one before: git has the history, beside the code.
    """
    command = f"python -m bench.{module or name} {' '.join(sys.argv[1:])}"
    written = recording.document(name, command, parameters, results)
    print(json.dumps(written, indent=2))
    return recording.write(written, folder)


def quantile(values: list[float], share: float) -> float:
    """Of values in any order; `share` is between 0 and 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
