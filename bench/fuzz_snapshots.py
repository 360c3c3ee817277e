"""Broken snapshots by the hundred thousand: each must be refused with a named error.

    python -m bench.fuzz_snapshots [--count 100000] [--seed N] [--memory-mb 512] [--only INDEX]

Mutants are made of two tiny pipelines, one change or a few each: of the manifest, the weights'
headers, the tokenizers' files and the files on disk, signed again wherever that lets them past the
hashes. Each is inspected, verified, prepared, loaded, and now and then imported and shown, in
processes with a limit on memory and time. Right outcomes are an error of the tree, or tensors that
are bit for bit what the mutant's files say. Everything else is a finding: another exception, a
crash, a hang, memory, a file touched outside the store, a connection, a program started.

A mutant is made from the seed and its index alone: `--seed N --only INDEX` repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import fields
from pathlib import Path

from bench.support import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.fuzz.campaign import run


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", type=int, help="one mutant, by its index; nothing is recorded")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-mb", type=int, default=512, help="beside the process's own")
    parser.add_argument("--wall-seconds", type=int, default=60, help="for one mutant")
    given = parser.parse_args()
    indices = range(given.count) if given.only is None else range(given.only, given.only + 1)

    def on_progress(at: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{at} of {given.count}", end="", file=sys.stderr, flush=True)

    print(f"seed {given.seed}", file=sys.stderr)
    result = run(
        given.seed,
        indices,
        workers=min(given.workers, len(indices)),
        memory_mb=given.memory_mb,
        wall_seconds=given.wall_seconds,
        on_progress=on_progress,
    )
    for finding in result.findings:
        print(finding, file=sys.stderr)
    if given.only is None:
        # `asdict` would make the counters' items keys.
        found = {each.name: getattr(result, each.name) for each in fields(result)}
        found["mutations"] = dict(sorted(result.mutations.items()))
        for key in ("outcomes", "stages"):
            found[key] = dict(found[key].most_common())
        found["mutants_per_second"] = round(result.mutants / result.seconds, 1)
        record("fuzz_snapshots", vars(given), found)
    return 1 if result.findings or result.mutants < len(indices) else 0


if __name__ == "__main__":
    sys.exit(main())
