"""What a simulation counts, and the figures made of it."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from quickthaw.scheduler.core.model import Tier
from quickthaw.scheduler.simulate.kinds import GpuKind
from quickthaw.scheduler.simulate.traces import Arrival
from quickthaw.scheduler.simulate.world import Attempt, VirtualWorker

WINDOW_SECONDS = 60.0
"""Fairness is looked at in windows: over a whole trace every tenant gets what it asked for."""


class Figures(NamedTuple):
    """Of one policy on one trace. Seconds and dollars of virtual time and money."""

    requests: int
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    queue_p99_seconds: float
    cold_share: float
    remote_share: float
    dollars_per_1000: float
    """For run and load seconds at the price of the GPU that they took place on."""
    busy_share: float
    """Of the fleet's time, spent running; loads that nothing ran beside are not in it."""
    fairness_error: float
    """The 95th percentile over windows of: how much more the best served tenant got than the worst
    served one, of those that had something waiting throughout, as a share of all run time (by its
    price) that these tenants got. 0 is equal shares, 1 is everything to one."""
    evictions: int
    lost_attempts: int
    refused: int
    """Ended without a result: the deadline was past, or could not be kept."""
    span_seconds: float


def mean(found: Sequence[Figures]) -> Figures:
    """Of simulations that differ by their seeds alone."""
    means = (type(values[0])(sum(values) / len(found)) for values in zip(*found, strict=True))
    return Figures._make(means)


class Outcome:
    def __init__(self) -> None:
        self._latency = array("d")
        self._queue = array("d")
        self._tiers: Counter[Tier] = Counter()
        self._nanodollars = 0.0
        self._run_seconds = 0.0
        self._lost = 0
        self._refused = 0
        self._evictions = 0
        self._span = 0.0
        self._fleet = 0
        self._served: defaultdict[int, defaultdict[str, float]] = defaultdict(
            lambda: defaultdict(float)
        )
        self._waits: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    def lost(self, attempts: int) -> None:
        self._lost += attempts

    def refused(self) -> None:
        """It ended without a result."""
        self._refused += 1

    def stopped(self, kind: GpuKind, run_seconds: float, load_seconds: float) -> None:
        """What was loaded and run in vain is paid for too."""
        self._nanodollars += (run_seconds + load_seconds) * kind.rate_nanodollars_per_second
        self._run_seconds += run_seconds

    def finished(
        self, arrival: Arrival, attempt: Attempt, kind: GpuKind, run_seconds: float, now: float
    ) -> None:
        self._latency.append(now - arrival.at_seconds)
        began = now - run_seconds
        self._queue.append(max(0.0, began - attempt.load_seconds - arrival.at_seconds))
        self._tiers[attempt.tier] += 1
        seconds = run_seconds + attempt.load_seconds
        self._nanodollars += seconds * kind.rate_nanodollars_per_second
        self._run_seconds += run_seconds
        self._serve(arrival.tenant, began, now, kind.rate_nanodollars_per_second)
        if began - arrival.at_seconds > 1.0:
            self._waits[arrival.tenant].append((arrival.at_seconds, began))

    def _serve(self, tenant: str, began: float, until: float, rate: int) -> None:
        """Notes a run in the windows that it took place in."""
        window = int(began / WINDOW_SECONDS)
        while began < until:
            end = min(until, (window + 1) * WINDOW_SECONDS)
            self._served[window][tenant] += (end - began) * rate
            began, window = end, window + 1

    def ended(self, now: float, workers: Iterable[VirtualWorker]) -> None:
        fleet = list(workers)
        self._span, self._fleet = now, len(fleet)
        self._evictions = sum(worker.evictions for worker in fleet)

    def figures(self) -> Figures:
        latency, queue = sorted(self._latency), sorted(self._queue)
        count = len(latency)
        cold = count - self._tiers[Tier.VRAM]
        return Figures(
            requests=count,
            p50_seconds=_at(latency, 0.50),
            p95_seconds=_at(latency, 0.95),
            p99_seconds=_at(latency, 0.99),
            queue_p99_seconds=_at(queue, 0.99),
            cold_share=cold / max(1, count),
            remote_share=self._tiers[Tier.REMOTE] / max(1, count),
            dollars_per_1000=self._nanodollars / max(1, count) * 1000 / 1e9,
            busy_share=self._run_seconds / max(1e-9, self._span * self._fleet),
            fairness_error=self._fairness_error(),
            evictions=self._evictions,
            lost_attempts=self._lost,
            refused=self._refused,
            span_seconds=self._span,
        )

    def _fairness_error(self) -> float:
        always: defaultdict[int, set[str]] = defaultdict(set)
        for tenant, waits in self._waits.items():
            for window in _covered(waits):
                always[window].add(tenant)
        gaps = []
        for window, tenants in always.items():
            if len(tenants) > 1:
                served: Mapping[str, float] = self._served[window]
                shares = [served.get(tenant, 0.0) for tenant in sorted(tenants)]
                if total := sum(shares):
                    gaps.append((max(shares) - min(shares)) / total)
        return _at(sorted(gaps), 0.95)


def _covered(waits: list[tuple[float, float]]) -> Iterable[int]:
    """The windows throughout which a tenant had something waiting."""
    merged: list[tuple[float, float]] = []
    for began, until in sorted(waits):
        if merged and began <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], until))
        else:
            merged.append((began, until))
    for began, until in merged:
        yield from range(-int(-began // WINDOW_SECONDS), int(until // WINDOW_SECONDS))


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
