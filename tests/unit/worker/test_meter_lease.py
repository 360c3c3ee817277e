"""A run goes on for as long as it is paid for, and no longer, whatever its worker hears."""

from __future__ import annotations

import pytest

from quickthaw.v1 import fleet_pb2
from quickthaw.worker.attempts import Assignment, LoadSummary, Outcome, RunResult, Stopped
from quickthaw.worker.commands import Command, StopWork, TellFinished
from quickthaw.worker.convert import assignment_from
from quickthaw.worker.events import (
    Assigned,
    CancelRequested,
    LoadReturned,
    MeterDue,
    MeterExtended,
    RunReturned,
)
from quickthaw.worker.machine import AttemptMachine

STOP = StopWork("a")


def running(*, meter_lease_ms: int, at: float = 10.0) -> AttemptMachine:
    """An attempt `a` whose run began at `at`."""
    machine = AttemptMachine(1, 16)
    assignment = Assignment("a", "r", "m", "sd", "", "", "{}", 1, (), 0, (), meter_lease_ms)
    machine.handle(Assigned(assignment, 0), 0.0)
    machine.handle(LoadReturned("a", LoadSummary()), at)
    return machine


def end_of(commands: list[Command]) -> TellFinished:
    (end,) = (command for command in commands if isinstance(command, TellFinished))
    return end


def test_a_run_that_hears_of_no_extension_stops_when_its_lease_is_used_up() -> None:
    machine = running(meter_lease_ms=2_000)
    assert machine.meter_due() == 12.0
    assert machine.handle(MeterDue(), 11.999) == []
    assert machine.handle(MeterDue(), 12.0) == [STOP]
    assert machine.meter_due() is None
    end = end_of(machine.handle(RunReturned("a", Stopped()), 12.25))
    assert (end.outcome, end.metered_ms) == (Outcome.FAILED, 2_250)
    assert end.failure is not None
    assert end.failure.reason == "BUDGET_EXHAUSTED"
    assert "2000 ms" in end.failure.message


def test_an_extension_moves_the_end_and_so_does_a_cut() -> None:
    machine = running(meter_lease_ms=2_000)
    assert machine.handle(MeterExtended((("a", 5_000), ("unknown", 1))), 11.0) == []
    assert machine.meter_due() == 15.0
    assert machine.handle(MeterDue(), 12.0) == []
    assert machine.handle(MeterExtended((("a", 1_500),)), 12.0) == [STOP]


def test_an_extension_that_comes_too_late_does_not_undo_the_stop() -> None:
    machine = running(meter_lease_ms=1_000)
    machine.handle(MeterDue(), 11.0)
    assert machine.handle(MeterExtended((("a", 9_000),)), 11.1) == []
    end = end_of(machine.handle(RunReturned("a", Stopped()), 11.2))
    assert end.outcome is Outcome.FAILED


def test_only_the_run_counts_not_the_load_before_it() -> None:
    machine = AttemptMachine(1, 16)
    assignment = Assignment("a", "r", "m", "sd", "", "", "{}", 1, (), 0, (), 500)
    machine.handle(Assigned(assignment, 0), 0.0)
    assert machine.meter_due() is None
    assert machine.handle(MeterDue(), 60.0) == []
    machine.handle(LoadReturned("a", LoadSummary()), 60.0)
    assert machine.meter_due() == 60.5


def test_without_a_lease_a_run_has_no_limit() -> None:
    machine = running(meter_lease_ms=0)
    assert machine.meter_due() is None
    assert machine.handle(MeterDue(), 1e6) == []


def test_a_result_that_was_done_before_the_stop_stands() -> None:
    machine = running(meter_lease_ms=1_000)
    machine.handle(MeterDue(), 11.0)
    commands = machine.handle(RunReturned("a", RunResult((), "{}")), 11.1)
    assert not any(isinstance(command, TellFinished) for command in commands)
    assert machine.meter_due() is None


def test_what_its_caller_cancelled_is_cancelled_even_if_it_was_not_paid_for_either() -> None:
    machine = running(meter_lease_ms=1_000)
    machine.handle(MeterDue(), 11.0)
    machine.handle(CancelRequested("a", "changed my mind"), 11.1)
    assert end_of(machine.handle(RunReturned("a", Stopped()), 11.2)).outcome is Outcome.CANCELLED


@pytest.mark.parametrize("lease_ms", [0, 1, 2_500])
def test_the_lease_comes_with_the_assignment(lease_ms: int) -> None:
    assert assignment_from(fleet_pb2.Assign(meter_lease_ms=lease_ms)).meter_lease_ms == lease_ms
