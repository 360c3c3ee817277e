"""Medians and 95th percentiles of positive quantities, learned one observation at a time.

A duration's logarithm is tracked by an exponentially weighted mean and deviation, which find place
and scale within a few observations and forget what is old; a quantile is `mean + k x deviation`.
With few observations k is the normal distribution's (ModelMesh's mean + k sigma). From then on each
k moves by itself: up by `q` steps when the truth was above, down by `1 - q` steps when it was not,
so that in the long run exactly the share q falls under it, whatever the distribution and however
it drifts (stochastic approximation, Robbins and Monro 1951; as adaptive conformal inference: Gibbs
and Candès, NeurIPS 2021).
"""

from __future__ import annotations

import math

from quickthaw.scheduler.core.model import Estimate

_WEIGHT = 0.1
"""Of the newest observation, once there are many."""
_STEP = 0.06
"""Of k, in deviations. A larger one adapts sooner and wavers more."""
_NORMAL_P95 = 1.645
_PRIOR_DEVIATION = 0.365
"""Of a logarithm about which nothing is known: p95 is 1.8 times p50."""
_FIRST_DEVIATION = 0.25
_DEVIATION_LEAST = 0.01
_SAME = 1e-3
"""Closer to the median is neither above nor below it."""
_DEVIATION_OF_ABSOLUTE = 1.2533
"""A normal variable's deviation, in mean absolute errors."""


class LogQuantiles:
    """Of one quantity. `p50` and `p95` are what is expected of the next observation."""

    __slots__ = ("_deviation", "_k50", "_k95", "_mean", "p50", "p95", "samples")

    def __init__(self, prior: float) -> None:
        self._mean = math.log(prior)
        self._deviation = _PRIOR_DEVIATION
        self._k50 = 0.0
        self._k95 = _NORMAL_P95
        self.samples = 0
        self.p50 = prior
        self.p95 = prior * math.exp(_NORMAL_P95 * _PRIOR_DEVIATION)

    def add(self, value: float) -> None:
        """`value` is positive."""
        log = math.log(value)
        if self.samples == 0:
            self._mean, self._deviation = log, _FIRST_DEVIATION
        else:
            if abs(value - self.p50) > _SAME * value:
                self._k50 += _STEP * (0.5 if value > self.p50 else -0.5)
            self._k95 += _STEP * (0.95 if value > self.p95 else -0.05)
            error = log - self._mean
            weight = max(_WEIGHT, 1.0 / (self.samples + 1))
            self._mean += weight * error
            spread = _DEVIATION_OF_ABSOLUTE * abs(error)
            # The first deviation counts as two observations: agreeing once is no certainty.
            weight = max(_WEIGHT, 1.0 / (self.samples + 2))
            self._deviation += weight * (spread - self._deviation)
        self.samples += 1
        deviation = max(self._deviation, _DEVIATION_LEAST)
        self.p50 = math.exp(self._mean + self._k50 * deviation)
        self.p95 = max(self.p50, math.exp(self._mean + self._k95 * deviation))

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.p50 * factor, self.p95 * factor, self.samples)


class Calibration:
    """How often the truth fell under what was foretold. Guesses from nothing do not count."""

    __slots__ = ("observations", "under_p50", "under_p95")

    def __init__(self) -> None:
        self.observations = 0
        self.under_p50 = 0
        self.under_p95 = 0

    def note(self, foretold: Estimate, actual: float) -> None:
        if foretold.samples:
            self.observations += 1
            self.under_p50 += actual <= foretold.p50
            self.under_p95 += actual <= foretold.p95
