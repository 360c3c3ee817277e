"""How often a worker that has nothing to do says that it lives."""

from __future__ import annotations

import pytest

from quickthaw.worker.lease import idle_turns


@pytest.mark.parametrize(
    ("lease_ms", "heartbeat_interval_ms", "turns"),
    [(10_000, 1_000, 4), (10_000, 2_000, 2), (6_000, 1_000, 2), (200, 100, 1), (20_000, 50, 4)],
)
def test_an_idle_worker_is_heard_twice_and_a_half_a_lease_or_each_interval(
    lease_ms: int, heartbeat_interval_ms: int, turns: int
) -> None:
    assert idle_turns(lease_ms, heartbeat_interval_ms) == turns
