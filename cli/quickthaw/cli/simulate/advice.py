"""The answer to "how many GPUs, and what would they cost?" in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from quickthaw.scheduler.simulate.study import Promise, Sized

HOURS_A_MONTH = 730


def advice(found: Sequence[Sized], promise: Promise, failing: Sized | None = None) -> list[str]:
    """One sentence for each thing that the operator decides upon. `failing` is the fleet advised,
    with workers dying under it."""
    enough = sorted(
        (each for each in found if each.dollars_per_hour is not None),
        key=lambda each: each.dollars_per_hour or 0.0,
    )
    too_small = [each.kind.gpu_type for each in found if each.figures is None]
    lines = []
    if not enough:
        lines.append(
            f"No fleet of up to {promise.workers_max:,} GPUs keeps p99 under "
            f"{promise.p99_seconds:g} s: the slowest loads or runs alone take longer. Ask for a "
            "longer one (--p99), or keep more models near (--disk-gib)."
        )
    else:
        lines += _about(enough)
    if failing is not None and failing.figures is not None:
        kept = failing.figures.p99_seconds <= promise.p99_seconds
        verdict = "still kept" if kept else "not kept"
        lines.append(
            f"With a worker dying now and then, p99 is {failing.figures.p99_seconds:.1f} s: the "
            f"promise is {verdict}" + ("." if kept else "; add one or two as a reserve.")
        )
    if too_small:
        lines.append(f"The largest model does not fit on: {', '.join(too_small)}.")
    return lines


def _about(enough: Sequence[Sized]) -> list[str]:
    best = enough[0]
    hourly, figures = best.dollars_per_hour, best.figures
    assert hourly is not None
    assert figures is not None
    lines = [
        f"Take {best.workers:,} x {best.kind.gpu_type}: ${hourly:,.2f} an hour "
        f"(${hourly * HOURS_A_MONTH:,.0f} a month), p99 {figures.p99_seconds:.1f} s."
    ]
    for other in enough[1:]:
        assert other.dollars_per_hour is not None
        more = other.dollars_per_hour / hourly - 1
        lines.append(
            f"{other.workers:,} x {other.kind.gpu_type} would do it too, for {more:.0%} more."
        )
    if figures.remote_share > 0.05:
        lines.append(
            f"{figures.remote_share:.0%} of the requests had to fetch their model over the "
            "network: larger disks (--disk-gib) would cut the tail before more GPUs do."
        )
    elif figures.cold_share > 0.3 and not figures.evictions:
        lines.append(
            f"{figures.cold_share:.0%} of the requests began with a load, each of a model that was "
            "not there yet: a longer log (--days of the export) tells how often that happens."
        )
    elif figures.cold_share > 0.3:
        lines.append(
            f"{figures.cold_share:.0%} of the requests began with a load: memory is what is short, "
            "not speed; compare GPUs with more VRAM."
        )
    if figures.busy_share > 0.85:
        lines.append("The fleet runs nearly all the time: a little more traffic will queue.")
    return lines
