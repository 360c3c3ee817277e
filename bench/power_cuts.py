"""Power cuts while a store is written, every one of them: nothing half done may look whole.

    python -m bench.power_cuts [--seed N] [--states 100000]

Packing, importing, pulling, removing and collecting are each run once and written down; then every
state that a journaling file system may leave of any moment of it is made and looked at: a snapshot
that shows up must be whole, bit for bit, and repeating the operation must heal the store.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench.support import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.power_cuts import OPERATIONS, check


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--states", type=int, default=2000, help="at most, for each operation")
    given = parser.parse_args()
    print(f"seed {given.seed}", file=sys.stderr)
    results = {}
    for name in OPERATIONS:
        print(name, file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="quickthaw-power-") as folder:
            results[name] = check(name, Path(folder), given.seed, given.states)
    findings = [found for each in results.values() for found in each.findings]
    for found in findings:
        print(found, file=sys.stderr)
    record("power_cuts", vars(given), {name: asdict(each) for name, each in results.items()})
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
