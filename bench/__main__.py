"""Every benchmark, one after the other; a failing one does not stop the rest.

python -m bench
"""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("placement", "scheduler", "load_path", "fixed_cost")


def main() -> int:
    failed = []
    for name in BENCHMARKS:
        print(f"== {name}", file=sys.stderr)
        if subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
