"""Quantiles mean what they say, whatever is measured and however it drifts."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest

from quickthaw.scheduler.core.estimates import LearnedEstimates
from quickthaw.scheduler.core.model import ModelId, Tier, WorkerId
from quickthaw.scheduler.core.quantiles import Calibration, LogQuantiles
from support.core_builders import GIB, a_worker

WARM_UP, MEASURED = 100, 1_000
M = ModelId("test/m")

Truth = Callable[[Random, int], float]


def lognormal(random: Random, _number: int) -> float:
    return math.exp(random.gauss(0, 0.5))


def drifting(random: Random, number: int) -> float:
    """Nine times as slow at the end."""
    return math.exp(random.gauss(0, 0.3) + number * 0.002)


def wandering(random: Random, number: int) -> float:
    return math.exp(random.gauss(0, 0.2) + math.sin(number / 50))


def jumping(random: Random, number: int) -> float:
    """Every two hundred runs something changes that makes them 2.7 times as slow, or as fast."""
    return math.exp(random.gauss(0, 0.2) + (number // 200) % 2)


def heavy_tailed(random: Random, _number: int) -> float:
    return random.paretovariate(1.5)


@pytest.mark.parametrize("truth", [lognormal, drifting, wandering, jumping, heavy_tailed])
@pytest.mark.parametrize("seed", range(20))
def test_after_warming_up_the_truth_falls_under_p50_and_p95_as_often_as_they_say(
    truth: Truth, seed: int
) -> None:
    random, calibration = Random(seed), Calibration()
    quantiles = LogQuantiles(0.1)
    for number in range(WARM_UP + MEASURED):
        actual = truth(random, number)
        if number >= WARM_UP:
            calibration.note(quantiles.scaled(1.0), actual)
        quantiles.add(actual)
    assert calibration.observations == MEASURED
    told = f"{truth.__name__}, seed {seed}"
    assert 0.45 <= calibration.under_p50 / MEASURED <= 0.55, told
    assert 0.92 <= calibration.under_p95 / MEASURED <= 0.98, told


def test_a_few_observations_are_enough_for_the_place_and_a_cautious_scale() -> None:
    quantiles = LogQuantiles(0.1)
    for actual in (4.0, 4.4, 3.8):
        quantiles.add(actual)
    assert quantiles.p50 == pytest.approx(4.0, rel=0.05)
    assert 4.4 < quantiles.p95 < 8.0


def test_what_never_varies_is_known_exactly() -> None:
    quantiles = LogQuantiles(0.1)
    for _ in range(200):
        quantiles.add(2.5)
    assert quantiles.p50 == pytest.approx(2.5)
    assert 2.5 <= quantiles.p95 < 2.6


def test_a_model_new_to_a_gpu_type_is_expected_to_run_as_on_the_others() -> None:
    """Else a type that nobody has tried would look like the fastest."""
    estimates = LearnedEstimates(10)
    for _ in range(5):
        estimates.ran(M, "h100", 2.0, 6.0)
    guess = estimates.run_seconds(M, "l4", 2.0)
    assert guess.p50 == pytest.approx(6.0)
    assert guess.samples == 0


def test_the_calibration_of_loads_and_runs_is_counted_and_guesses_are_not() -> None:
    estimates = LearnedEstimates(10)
    worker = WorkerId("w1")
    estimates.worker_attached(a_worker())
    for actual in (1.0, 2.0, 0.5):
        estimates.ran(M, "h100", 1.0, actual)
        expected = estimates.load_seconds(worker, Tier.DISK, 4 * GIB).p50
        estimates.loaded(worker, Tier.DISK, expected, actual)
    counted = estimates.calibration()
    assert set(counted) == {"load", "run"}
    for calibration in counted.values():
        assert (calibration.observations, calibration.under_p50, calibration.under_p95) == (2, 1, 1)


def test_a_run_too_short_for_the_meter_is_learned_as_such() -> None:
    estimates = LearnedEstimates(10)
    estimates.ran(M, "h100", 1.0, 0.0)
    assert 0.0 < estimates.run_seconds(M, "h100", 1.0).p50 < 0.001
