"""Attempts of one model that run as one: who with whom, whose time, who leaves."""

from __future__ import annotations

from quickthaw.worker.attempts import Assignment, LoadSummary, Outcome, RunResult, Stopped
from quickthaw.worker.commands import (
    BeginLoad,
    BeginRun,
    Command,
    StopWork,
    TellFinished,
    TellRunning,
)
from quickthaw.worker.events import (
    Assigned,
    CancelRequested,
    LoadReturned,
    RunReturned,
    StoreReturned,
)
from quickthaw.worker.machine import AttemptMachine

DRAWN = RunResult((), "{}")
ALIKE = LoadSummary(total_seconds=0.5, batch_key="64x64")


def an_assignment(attempt_id: str, snapshot: str = "s") -> Assignment:
    return Assignment(
        attempt_id, f"request-of-{attempt_id}", "test/model", "sd", snapshot, "", "{}", 1, (), 0
    )


def assigned(machine: AttemptMachine, attempt_id: str, snapshot: str) -> list[Command]:
    return machine.handle(Assigned(an_assignment(attempt_id, snapshot), 0), 0.0)


def ends(commands: list[Command]) -> list[TellFinished]:
    return [command for command in commands if isinstance(command, TellFinished)]


def batching(attempt_ids: str, *, keys: str = "", batch_max: int = 4) -> AttemptMachine:
    """`z` runs alone; the others are of the same snapshot and wait, loaded, for its end."""
    machine = AttemptMachine(1, 16, batch_max)
    assigned(machine, "z", "s")
    machine.handle(LoadReturned("z", ALIKE), 0.0)
    for attempt_id, key in zip(attempt_ids, keys or "k" * len(attempt_ids), strict=True):
        commands = assigned(machine, attempt_id, "s")
        assert BeginLoad(an_assignment(attempt_id)) in commands
        machine.handle(LoadReturned(attempt_id, LoadSummary(batch_key=key.strip())), 0.0)
    return machine


def begun(commands: list[Command]) -> list[str]:
    return [
        "".join(each.attempt_id for each in (command.assignment, *command.mates))
        for command in commands
        if isinstance(command, BeginRun)
    ]


def test_attempts_that_wait_for_the_same_model_run_as_one() -> None:
    machine = batching("abc")
    commands = machine.handle(RunReturned("z", DRAWN), 1.0)
    assert begun(commands) == ["abc"]
    told = [each.attempt_id for each in commands if isinstance(each, TellRunning)]
    assert told == ["a", "b", "c"]
    assert machine.running == 1


def test_only_what_is_alike_runs_together_and_no_more_than_a_batch_takes() -> None:
    assert begun(batching("abc", keys="kxk").handle(RunReturned("z", DRAWN), 1.0)) == ["ac"]
    assert begun(batching("abc", keys="   ").handle(RunReturned("z", DRAWN), 1.0)) == ["a"]
    machine = batching("abc", batch_max=3)
    assert begun(machine.handle(RunReturned("z", DRAWN), 1.0)) == ["abc"]


def test_the_shares_of_a_batch_add_up_to_its_time_to_the_millisecond() -> None:
    machine = batching("abc")
    machine.handle(RunReturned("z", DRAWN), 1.0)
    halfway = [each.metered_ms for each in machine.statuses(1.5) if each.attempt_id in "abc"]
    assert sum(halfway) == 500
    metered = []
    for number, attempt_id in enumerate("abc"):
        over = attempt_id == "c"
        machine.handle(RunReturned(attempt_id, DRAWN, 0, "a", over=over), 2.0)
        (end,) = ends(machine.handle(StoreReturned(attempt_id, ()), 2.0))
        metered.append(end.metered_ms)
        assert machine.running == (0 if over else 1), number
    assert (sum(metered), max(metered) - min(metered)) == (1_000, 1)


def test_a_member_that_is_stopped_ends_at_once_and_the_run_goes_on_without_it() -> None:
    machine = batching("ab")
    machine.handle(RunReturned("z", DRAWN), 1.0)
    assert StopWork("a") in machine.handle(CancelRequested("a", "enough"), 1.25)
    (end,) = ends(machine.handle(RunReturned("a", Stopped(), 0, "a", over=False), 1.5))
    assert (end.outcome, end.metered_ms) == (Outcome.CANCELLED, 250)
    assert machine.running == 1, "the thread is still at it"
    assigned(machine, "d", "s")
    assert begun(machine.handle(LoadReturned("d", ALIKE), 1.5)) == []
    machine.handle(RunReturned("a", Stopped(), 0, "a", over=False), 2.0)
    commands = machine.handle(RunReturned("b", DRAWN, 0, "a"), 2.0)
    assert begun(commands) == ["d"]
    (end,) = ends(machine.handle(StoreReturned("b", ()), 2.0))
    assert (end.outcome, end.metered_ms) == (Outcome.SUCCEEDED, 500), "its half, as before"


def test_a_model_that_is_not_here_waits_until_there_is_a_place() -> None:
    machine = batching("a")
    commands = assigned(machine, "x", "another")
    assert not [each for each in commands if isinstance(each, BeginLoad)]


def test_without_batching_each_runs_alone() -> None:
    machine = AttemptMachine(1, 16)
    for attempt_id in "ab":
        assigned(machine, attempt_id, "s")
    machine.handle(LoadReturned("a", ALIKE), 0.0)
    machine.handle(LoadReturned("b", ALIKE), 0.0)
    assert begun(machine.handle(RunReturned("a", DRAWN), 1.0)) == ["b"]


def test_loads_go_on_beside_a_run_until_as_many_wait_loaded_as_may() -> None:
    """Of different models, so that none of them is a batch."""
    machine, alone = AttemptMachine(1, 16, ready_max=2), LoadSummary(total_seconds=0.5)
    assigned(machine, "a", "snapshot a")
    machine.handle(LoadReturned("a", alone), 0.5)
    assert BeginLoad(an_assignment("b", "snapshot b")) in assigned(machine, "b", "snapshot b")
    assert assigned(machine, "c", "snapshot c") == []
    loads = machine.handle(LoadReturned("b", alone), 1.0)
    assert BeginLoad(an_assignment("c", "snapshot c")) in loads
    assert assigned(machine, "d", "snapshot d") == []
    assert machine.handle(LoadReturned("c", alone), 2.0) == []
    commands = machine.handle(RunReturned("a", DRAWN), 3.0)
    assert begun(commands) == ["b"]
    assert BeginLoad(an_assignment("d", "snapshot d")) in commands
