"""What is known of a model's run on one GPU type tells about another."""

from __future__ import annotations

from random import Random

import pytest

from quickthaw.scheduler.core.estimates import LearnedEstimates
from quickthaw.scheduler.core.model import ModelId
from quickthaw.scheduler.core.paces import GpuPaces


def test_a_model_is_expected_to_run_on_another_type_as_other_models_did() -> None:
    estimates, chance = LearnedEstimates(100), Random(1)
    for number in range(40):
        model = ModelId(f"m{number % 8}")
        slower = 5.0 if number // 8 % 2 else 1.0
        seconds = (1 + number % 8) * slower * chance.lognormvariate(0.0, 0.1)
        estimates.ran(model, "slow" if slower > 1 else "fast", 10.0, seconds)
    newcomer = ModelId("newcomer")
    estimates.ran(newcomer, "fast", 10.0, 2.0)
    expected = estimates.run_seconds(newcomer, "slow", 10.0)
    assert expected.p50 == pytest.approx(10.0, rel=0.25)
    assert expected.samples == 0, "it has not run there"
    assert estimates.run_seconds(newcomer, "fast", 10.0).p50 == pytest.approx(2.0, rel=0.05)


def test_paces_depend_on_no_order_of_types_and_settle() -> None:
    paces, chance = GpuPaces(10), Random(2)
    truth = {"a": 1.0, "b": 2.0, "c": 6.0}
    for _ in range(600):
        one, other = chance.sample(sorted(truth), 2)
        expected = paces.pace(one) / paces.pace(other)
        measured = truth[one] / truth[other] * chance.lognormvariate(0.0, 0.2)
        paces.compared(one, other, measured / expected)
    assert paces.pace("b") / paces.pace("a") == pytest.approx(2.0, rel=0.15)
    assert paces.pace("c") / paces.pace("a") == pytest.approx(6.0, rel=0.15)


def test_runs_on_one_type_alone_say_nothing_of_types() -> None:
    paces = GpuPaces(10)
    paces.compared("a", "a", 100.0)
    assert paces.pace("a") == 1.0


def test_types_are_forgotten_beyond_the_bound() -> None:
    paces = GpuPaces(4)
    for number in range(50):
        paces.compared(f"t{number}", f"u{number}", 4.0)
    known = [n for n in range(50) for kind in "tu" if paces.pace(f"{kind}{n}") != 1.0]
    assert len(known) == 4
