"""Every benchmark, or those named, one after the other; a failing one does not stop the rest.

python -m bench [NAME ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
COLD_START = ("quickthaw.cli", "bench", "cold-start", "--results", str(RESULTS))
BENCHMARKS: Mapping[str, tuple[str, ...]] = {
    **{
        name: (f"bench.{name}",)
        for name in (
            "placement",
            "scheduler",
            "heartbeats",
            "realtime",
            "gateway",
            "listeners",
            "fork_to_ready",
            "fixed_cost",
            "adapters",
            "fine_tunes",
            "options",
            "options_families",
            "options_caches",
            "remote",
            "load_cycles",
            "media",
            "power_cuts",
            "fuzz_snapshots",
        )
    },
    "cold_start": (*COLD_START, "--targets"),
    "simulate": ("quickthaw.cli", "bench", "simulate", "--results", str(RESULTS)),
}
"""What `python -m` is given."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names: list[str] = parser.parse_args().names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"no such benchmark: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    failed = []
    for name in names:
        print(f"== {name}", file=sys.stderr)
        command = [sys.executable, "-m", *BENCHMARKS[name]]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
