"""When a part that died comes back, and when it is given up."""

import pytest

from quickthaw.cli.errors import PartFailed
from quickthaw.cli.up.restart import Restarts
from quickthaw.wire.restarts import RestartPolicy

POLICY = RestartPolicy(
    pause_seconds=0.2,
    pause_seconds_max=1.0,
    failed_starts_max=4,
    restarts_max=10,
    restarts_window_seconds=60.0,
)


def test_a_part_that_was_ready_comes_back_at_once_however_often_it_is_killed() -> None:
    restarts = Restarts("worker-0", POLICY)
    pauses = [
        restarts.pause_seconds(now=10.0 * n, was_ready=True, last_lines=()) for n in range(50)
    ]
    assert pauses == [0.2] * 50


def test_a_part_that_cannot_start_backs_off_and_is_given_up_with_its_last_words() -> None:
    restarts = Restarts("worker-0", POLICY)
    pauses = [restarts.pause_seconds(float(n), was_ready=False, last_lines=()) for n in range(3)]
    assert pauses == [0.4, 0.8, 1.0]
    with pytest.raises(PartFailed, match="worker-0 failed to start 4 times") as caught:
        restarts.pause_seconds(3.0, was_ready=False, last_lines=("no memory",))
    assert caught.value.last_lines == ("no memory",)


def test_getting_ready_once_forgives_failed_starts() -> None:
    restarts = Restarts("gateway", POLICY)
    for n in range(3):
        restarts.pause_seconds(float(n), was_ready=False, last_lines=())
    assert restarts.pause_seconds(3.0, was_ready=True, last_lines=()) == 0.2
    for n in range(3):
        restarts.pause_seconds(4.0 + n, was_ready=False, last_lines=())


def test_dying_too_often_in_a_short_time_is_a_crash_loop_even_if_ready_each_time() -> None:
    restarts = Restarts("scheduler", POLICY)
    for n in range(10):
        restarts.pause_seconds(float(n), was_ready=True, last_lines=())
    with pytest.raises(PartFailed, match="scheduler died 11 times within 60 s"):
        restarts.pause_seconds(10.0, was_ready=True, last_lines=())
