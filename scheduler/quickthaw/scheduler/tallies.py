"""Counters and histograms of what happens to every request, for Prometheus.

The client library's own take a lock for each number, several for each request. These belong to one
thread, the event loop, and are only read by others: a scrape may see one number an instant newer
than the next, as any scrape may.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Tally:
    """Only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Spread:
    """How many observations were at most as large as each bound."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` rise."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """As Prometheus has them: cumulative, by bound; and the sum."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


class Tallies(Collector):
    """One family of counters, by the value of its label; one without a label has the value ""."""

    def __init__(self, name: str, text: str, registry: CollectorRegistry, label: str = "") -> None:
        self._family = (name, text)
        self._label = label
        self._of: dict[str, Tally] = {}
        registry.register(self)

    def labels(self, value: str = "") -> Tally:
        """That of one value of the label; the same object each time."""
        if (known := self._of.get(value)) is None:
            known = self._of[value] = Tally()
        return known

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(*self._family, labels=[self._label] if self._label else None)
        for value, tally in list(self._of.items()):
            family.add_metric([value] if self._label else [], tally.value)
        yield family


class Spreads(Collector):
    """One family of histograms, as `Tallies`."""

    def __init__(
        self,
        name: str,
        text: str,
        registry: CollectorRegistry,
        bounds: Sequence[float],
        label: str = "",
    ) -> None:
        self._family = (name, text)
        self._bounds = bounds
        self._label = label
        self._of: dict[str, Spread] = {}
        registry.register(self)

    def labels(self, value: str = "") -> Spread:
        if (known := self._of.get(value)) is None:
            known = self._of[value] = Spread(self._bounds)
        return known

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(*self._family, labels=[self._label] if self._label else None)
        for value, spread in list(self._of.items()):
            buckets, total = spread.buckets()
            family.add_metric([value] if self._label else [], buckets, total)
        yield family
