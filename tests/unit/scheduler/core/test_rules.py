"""The small rules: money, eviction, estimates."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.core.estimates import DEFAULT_RUN_SECONDS_PER_UNIT, LearnedEstimates
from quickthaw.scheduler.core.eviction import GreedyDual, choose_victims
from quickthaw.scheduler.core.model import Digest, ModelId, Outcome, Tier, WorkerId
from quickthaw.scheduler.core.pricing import PriceTable, bill, price_nanodollars
from support.core_builders import GIB, a_worker

W1, M = WorkerId("w1"), ModelId("test/m")

# ---- money -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("billed_ms", "rate", "price"),
    [(0, 777, 0), (1_000, 777, 777), (1, 499, 0), (1, 500, 1), (3, 500, 2), (1, 1_500, 2)],
)
def test_prices_are_rounded_half_up(billed_ms: int, rate: int, price: int) -> None:
    assert price_nanodollars(billed_ms, rate) == price


def test_a_failure_is_free_and_says_why() -> None:
    assert bill(Outcome.SUCCEEDED, 1_500, 1_000) == (1_500, 1_500, "")
    assert bill(Outcome.CANCELLED, 1_500, 1_000) == (1_500, 1_500, "")
    assert bill(Outcome.FAILED, 9, 1, waived_for="ENGINE_FAILED") == (0, 0, "failed:engine_failed")
    assert bill(Outcome.FAILED, 9, 1, waived_for="worker_lost") == (0, 0, "worker_lost")


def test_a_gpu_type_without_a_price_has_the_default() -> None:
    prices = PriceTable("v", 5, {"h100": 7})
    assert (prices.rate("h100"), prices.rate("tpu")) == (7, 5)


# ---- eviction ----------------------------------------------------------------------------------


def victims(credits: GreedyDual, sizes: dict[str, int], need: int) -> tuple[str, ...] | None:
    entries = [(Digest(digest), size) for digest, size in sizes.items()]
    return choose_victims(credits.ordered(entries), (), need)


def test_what_is_quick_to_load_again_for_its_size_goes_first() -> None:
    credits = GreedyDual()
    credits.touch(Digest("slow"), GIB, 10.0)
    credits.touch(Digest("quick"), GIB, 1.0)
    assert victims(credits, {"slow": GIB, "quick": GIB}, 1) == ("quick",)


def test_what_is_used_more_stays_longer() -> None:
    credits = GreedyDual()
    for digest in ("seldom", "often", "often"):
        credits.touch(Digest(digest), GIB, 1.0)
    assert victims(credits, {"often": GIB, "seldom": GIB}, 1) == ("seldom",)


def test_what_was_dear_and_is_never_used_again_ages() -> None:
    credits = GreedyDual()
    credits.touch(Digest("dear"), GIB, 3.0)
    for _ in range(4):
        credits.touch(Digest("passing"), GIB, 1.0)
        credits.gone(Digest("passing"))
    credits.touch(Digest("new"), GIB, 1.0)
    assert victims(credits, {"dear": GIB, "new": GIB}, 1) == ("dear",)


def test_nothing_is_evicted_that_need_not_be() -> None:
    credits = GreedyDual()
    credits.touch(Digest("small"), GIB, 0.1)
    credits.touch(Digest("big"), 10 * GIB, 10.0)
    assert victims(credits, {"small": GIB, "big": 10 * GIB}, 8 * GIB) == ("big",)


def test_too_little_is_not_evicted_for_nothing() -> None:
    assert victims(GreedyDual(), {"a": 5, "b": 5}, 11) is None
    assert victims(GreedyDual(), {"a": 5, "b": 5}, 0) == ()


# ---- estimates ---------------------------------------------------------------------------------


def test_a_worker_s_own_speeds_are_the_first_estimate() -> None:
    estimates = LearnedEstimates(10)
    estimates.worker_attached(a_worker())
    first = estimates.load_seconds(W1, Tier.DISK, 4 * GIB)
    assert first.p50 == pytest.approx(2.05)
    assert (first.samples, first.p95 > first.p50) == (0, True)
    assert estimates.load_seconds(W1, Tier.DISK, 0).p50 == 0.0


def test_loads_that_take_twice_as_long_are_expected_to() -> None:
    estimates = LearnedEstimates(10)
    estimates.worker_attached(a_worker())
    for _ in range(20):
        expected = estimates.load_seconds(W1, Tier.DISK, 4 * GIB).p50
        estimates.loaded(W1, Tier.DISK, expected, 4.1)
    learned = estimates.load_seconds(W1, Tier.DISK, 4 * GIB)
    assert learned.p50 == pytest.approx(4.1)
    assert learned.p95 < 4.5
    assert estimates.load_seconds(W1, Tier.PINNED, 20 * GIB).p50 == pytest.approx(1.01)


def test_runs_are_learned_by_model_and_gpu_in_units_of_work() -> None:
    estimates = LearnedEstimates(10)
    assert estimates.run_seconds(M, "h100", 2.0).p50 == 2 * DEFAULT_RUN_SECONDS_PER_UNIT
    estimates.ran(M, "h100", 20.0, 5.0)
    learned = estimates.run_seconds(M, "h100", 40.0)
    assert learned.p50 == pytest.approx(10.0)
    assert learned.samples == 1
    assert estimates.run_seconds(M, "l4", 40.0).samples == 0


def test_estimates_forget_the_least_recent_pair_beyond_their_bound() -> None:
    estimates = LearnedEstimates(2)
    for gpu_type in ("a", "b", "c"):
        estimates.ran(M, gpu_type, 1.0, 9.0)
    samples = [estimates.run_seconds(M, gpu_type, 1.0).samples for gpu_type in "abc"]
    assert samples == [0, 1, 1]
