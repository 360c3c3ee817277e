"""The histogram of a model's pauses, and the window in which a copy is worth having."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quickthaw.scheduler.core.idle_times import (
    BIN_MS,
    BINS,
    HALVE_AT,
    PAUSES_MIN,
    IdleTimes,
)

MINUTE = 60_000
FALLBACK = 10 * MINUTE


def noted(*pauses_ms: int) -> IdleTimes:
    times = IdleTimes()
    for pause_ms in pauses_ms:
        times.note(pause_ms)
    return times


def test_too_few_pauses_say_nothing_and_the_fixed_time_holds() -> None:
    window = noted(*[5 * MINUTE] * (PAUSES_MIN - 1)).window(FALLBACK)
    assert window == (0, FALLBACK, False)


def test_regular_pauses_give_a_window_from_before_the_5th_to_after_the_99th_percentile() -> None:
    window = noted(*[30 * MINUTE] * 20).window(FALLBACK)
    assert window.learned
    assert window.from_ms == 27 * MINUTE
    assert window.until_ms == round(31 * 1.1 * MINUTE)
    assert not window.holds(20 * MINUTE)
    assert window.holds(29 * MINUTE)
    assert not window.holds(40 * MINUTE)


def test_short_pauses_are_kept_from_the_beginning() -> None:
    assert noted(*[10_000] * 20).window(FALLBACK).from_ms == 0


def test_pauses_without_a_pattern_say_nothing() -> None:
    assert not noted(*(index * BIN_MS for index in range(BINS))).representative()


def test_pauses_beyond_the_histogram_say_nothing() -> None:
    beyond = BINS * BIN_MS + 1
    assert not noted(*[5 * MINUTE] * 10, *[beyond] * 11).representative()


def test_one_long_pause_among_many_does_not_hide_the_others() -> None:
    window = noted(*[5 * MINUTE] * 30, BINS * BIN_MS + 1).window(FALLBACK)
    assert window.learned
    assert window.holds(5 * MINUTE)


def test_old_habits_fade() -> None:
    times = noted(*[100 * MINUTE] * 100)
    for _ in range(20 * HALVE_AT):
        times.note(3 * MINUTE)
    assert times.window(FALLBACK).until_ms < 10 * MINUTE


def test_the_hazard_rises_as_the_expected_moment_comes_nearer() -> None:
    times = noted(*[30 * MINUTE] * 20)
    until_ms = 31 * MINUTE
    far = times.hazard_per_second(0, until_ms)
    near = times.hazard_per_second(29 * MINUTE, until_ms)
    assert 0.0 < far < near
    assert times.hazard_per_second(32 * MINUTE, 60 * MINUTE) == 0.0


@given(st.lists(st.integers(-5, 5 * 3_600_000), max_size=600), st.integers(0, 5 * 3_600_000))
def test_whatever_the_pauses_a_window_begins_before_it_ends_and_a_hazard_is_a_rate(
    pauses_ms: list[int], idle_ms: int
) -> None:
    times = noted(*pauses_ms)
    window = times.window(FALLBACK)
    assert 0 <= window.from_ms <= window.until_ms
    hazard = times.hazard_per_second(idle_ms, idle_ms + 1_000)
    assert 0.0 <= hazard <= 1.0
