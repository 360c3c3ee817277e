"""From rounds to results: percentiles, rates, and ratios that are taken within each round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from quickthaw.cli.bench.lanes import Outcome
from quickthaw.cli.bench.measuring import Measured
from quickthaw.cli.bench.phases import phases_of
from quickthaw.cli.bench.rows import FRESH, From, Row, floor_key, ours_key

Json = dict[str, object]

SCHEMA_VERSION = 1


def quantile(values: Sequence[float], share: float) -> float:
    """Of values in any order, between neighbours in proportion; `share` is from 0 to 1."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Rounded to four digits that mean something, whatever the size of the numbers."""
    found = {
        "p50": statistics.median(values),
        "p95": quantile(values, 0.95),
        "min": min(values),
        "max": max(values),
    }
    return {name: _rounded(value) for name, value in found.items()}


def summarise(rows: Sequence[Row], measured: Measured, nbytes: int) -> dict[str, Json]:
    """By row key; rows without a complete set of rounds are left out."""
    complete = {
        key: outcomes
        for key, outcomes in measured.outcomes.items()
        if outcomes and _lane(key, rows) not in measured.failed
    }
    return {row.key: _line(row, complete, nbytes) for row in rows if row.key in complete}


def _lane(key: str, rows: Sequence[Row]) -> str:
    return next(row.lane for row in rows if row.key == key)


def _line(row: Row, complete: Mapping[str, list[Outcome]], nbytes: int) -> Json:
    outcomes = complete[row.key]
    seconds = [each.seconds for each in outcomes]
    gigabytes = nbytes / 1e9
    line: Json = {
        "title": row.title,
        "lane": row.lane,
        "start": row.start.value,
        "call": row.call,
        "seconds": spread(seconds),
        "gigabytes_per_second": _rounded(gigabytes / statistics.median(seconds)),
        "cpu_seconds_per_gigabyte": spread([each.cpu_seconds / gigabytes for each in outcomes]),
        "seconds_by_round": [_rounded(value) for value in seconds],
    }
    if how := sorted({each.how for each in outcomes if each.how}):
        line["how"] = how
    if not row.is_floor:
        line["share_of_floor"] = _ratio(complete, floor_key(row.start), row.key)
        if row.start is From.PAGE_CACHE:
            line["share_of_memory_copy"] = _ratio(complete, floor_key(From.PINNED), row.key)
    if row.is_ours:
        line["verified"] = row.verify
        line["phases"] = phases_of(row, complete)
    if row.is_peer:
        line["times_quickthaw"] = _ratio(complete, row.key, ours_key(row.start))
        line["times_fresh_slab"] = _ratio(complete, row.key, f"{FRESH}/{row.start}")
    return {name: value for name, value in line.items() if value is not None}


def _ratio(
    complete: Mapping[str, list[Outcome]], above: str, below: str
) -> dict[str, float] | None:
    """Seconds of one row over another's, round by round; None if either was not measured."""
    if above not in complete or below not in complete:
        return None
    pairs = zip(complete[above], complete[below], strict=True)
    return spread([first.seconds / second.seconds for first, second in pairs])


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
