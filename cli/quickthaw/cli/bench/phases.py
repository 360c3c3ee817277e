"""Where a load's time goes, as parts that add up to it.

Reading, hashing, copying and binding overlap, so none of them can be timed alone. The split of the
time in which bytes moved is by what is measured: hashing is what a load takes longer with it than
without (the median over rounds, at least 0), copying is what was left to copy when the last byte
had been read.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from quickthaw.cli.bench.lanes import Outcome
from quickthaw.cli.bench.rows import Row

PHASES = (
    *("slab", "manifest", "skeleton", "tokenizers", "read", "hash", "copy", "bind", "pipeline"),
    "other",
)
"""In the order in which they are drawn; `other` is what no part of the report claims."""

_PLAIN = {
    "slab": "slab_seconds",
    "manifest": "manifest_seconds",
    "skeleton": "skeleton_seconds",
    "tokenizers": "tokenizer_seconds",
    "bind": "bind_seconds",
    "pipeline": "pipeline_seconds",
}


def phases_of(row: Row, complete: Mapping[str, list[Outcome]]) -> dict[str, float]:
    """Median seconds of each phase, by name, so scaled that they add up to the median of the whole;
    phases that took no time are left out."""
    outcomes = complete[row.key]
    unverified = complete.get(f"{row.lane}-unverified/{row.start}") if row.verify else None
    hashing = _hashing(outcomes, unverified) if unverified else 0.0
    split = [_split(each, hashing) for each in outcomes]
    medians = {name: statistics.median(each[name] for each in split) for name in PHASES}
    scale = statistics.median(each.seconds for each in outcomes) / max(sum(medians.values()), 1e-9)
    return {name: round(value * scale, 6) for name, value in medians.items() if value >= 1e-6}


def _hashing(outcomes: Sequence[Outcome], unverified: Sequence[Outcome]) -> float:
    pairs = zip(outcomes, unverified, strict=True)
    return max(statistics.median(with_.seconds - without.seconds for with_, without in pairs), 0.0)


def _split(outcome: Outcome, hashing: float) -> dict[str, float]:
    found = {name: outcome.phases.get(key, 0.0) for name, key in _PLAIN.items()}
    # Modules are bound while bytes move: what bytes alone took is what the rest leaves over.
    moving = max(outcome.seconds - sum(found.values()), 0.0)
    claimed = outcome.phases.get("bytes_seconds", 0.0)
    found["other"] = max(moving - claimed, 0.0)
    moving -= found["other"]
    read = min(outcome.phases.get("read_seconds", 0.0), moving)
    found["hash"] = min(hashing, read)
    found["read"] = read - found["hash"]
    found["copy"] = moving - read
    return found
