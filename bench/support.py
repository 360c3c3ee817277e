"""What every benchmark writes down: its numbers, and all that is needed to judge or repeat them."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

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


def metric_value(url: str, name: str) -> float:
    """Of a part's metrics page, the sum over all labels. Raises LookupError if it is not there."""
    with urllib.request.urlopen(url) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        found = [each.value for family in families for each in family.samples if each.name == name]
    if not found:
        raise LookupError(f"{url} does not tell {name}")
    return sum(found)
