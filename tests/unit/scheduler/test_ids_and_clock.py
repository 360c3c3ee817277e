"""Names in the order of time, and time that does not go back."""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.scheduler.clock import SystemClock
from quickthaw.scheduler.convert.words import priority_from_wire, tier_from_wire, tier_to_wire
from quickthaw.scheduler.core.model import Priority, Tier
from quickthaw.scheduler.ids import RequestIds
from quickthaw.v1 import types_pb2

NS = 1_000_000_000


@given(st.lists(st.integers(0, 2**45), min_size=1, max_size=50))
def test_ids_rise_whatever_the_clock_does(times: list[int]) -> None:
    ids = RequestIds(Random(1))
    made = [ids.new(now_ms) for now_ms in times]
    assert made == sorted(set(made))
    assert {len(each) for each in made} == {26}


def test_ids_of_two_processes_at_one_moment_differ() -> None:
    assert RequestIds().new(5) != RequestIds().new(5)


class Times:
    """The two clocks of the machine, turned by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns = 1_000 * NS
        self.elapsed_ns = 0
        monkeypatch.setattr(time, "time_ns", lambda: self.wall_ns)
        monkeypatch.setattr(time, "clock_gettime_ns", lambda _clock: self.elapsed_ns)

    def pass_seconds(self, seconds: float) -> None:
        self.wall_ns += int(seconds * NS)
        self.elapsed_ns += int(seconds * NS)


def test_the_clock_follows_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    clock = SystemClock()
    times.pass_seconds(2.5)
    assert clock.now_ms() == 1_002_500


def test_a_wall_clock_set_forward_does_not_end_leases_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = Times(monkeypatch)
    clock = SystemClock()
    times.wall_ns += 3600 * NS
    times.pass_seconds(1)
    assert clock.now_ms() == 1_001_500
    for _ in range(10):
        times.pass_seconds(1000)
        now_ms = clock.now_ms()
    assert now_ms == times.wall_ns // 1_000_000


def test_a_wall_clock_set_back_never_takes_time_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    clock = SystemClock()
    before = clock.now_ms()
    times.wall_ns -= 60 * NS
    assert clock.now_ms() == before
    times.pass_seconds(1)
    assert clock.now_ms() == before + 500


def test_the_numbers_of_tiers_and_priorities_are_the_wires() -> None:
    assert {tier.name: int(tier) for tier in Tier} == {
        name.removeprefix("TIER_"): number
        for name, number in types_pb2.Tier.items()
        if number != types_pb2.TIER_UNSPECIFIED
    }
    assert all(tier_from_wire(tier_to_wire(tier)) is tier for tier in Tier)
    for name, number in types_pb2.Priority.items():
        expected = "NORMAL" if number == 0 else name.removeprefix("PRIORITY_")
        assert priority_from_wire(number) is Priority[expected]
