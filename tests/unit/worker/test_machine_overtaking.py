"""An attempt whose model is up runs while an earlier one is still loading."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from quickthaw.worker.attempts import Assignment, LoadSummary, NoRoomYet, RunResult
from quickthaw.worker.commands import (
    BeginLoad,
    BeginRun,
    Command,
    ReleaseModel,
    TakeUp,
    TellFinished,
    TellLoading,
    TellRunning,
)
from quickthaw.worker.events import (
    Assigned,
    CancelRequested,
    Event,
    LoadLasts,
    LoadReturned,
    RunReturned,
    TakenUp,
)
from quickthaw.worker.machine import AttemptMachine

LOADED = LoadSummary(total_seconds=0.5)
DRAWN = RunResult((), "{}")


def an_assignment(attempt_id: str, snapshot: str = "") -> Assignment:
    snapshot = snapshot or f"model of {attempt_id}"
    return Assignment(attempt_id, "r", "test/model", "sd", snapshot, "", "{}", 1, (), 0)


def a_machine(overtakes_max: int = 16, concurrency: int = 1) -> AttemptMachine:
    return AttemptMachine(concurrency, 16, ready_max=2, overtakes_max=overtakes_max)


def assigned(machine: AttemptMachine, attempt_id: str, snapshot: str = "") -> list[Command]:
    return machine.handle(Assigned(an_assignment(attempt_id, snapshot), 0), 0.0)


def loading(machine: AttemptMachine, attempt_id: str) -> None:
    assert BeginLoad(an_assignment(attempt_id)) in assigned(machine, attempt_id)
    machine.handle(LoadLasts(attempt_id), 0.0)


def test_one_whose_model_is_up_runs_while_an_earlier_one_loads() -> None:
    machine = a_machine()
    loading(machine, "cold")
    assert assigned(machine, "warm") == [TakeUp(an_assignment("warm"))]
    assert machine.handle(TakenUp("warm", LOADED), 1.0) == [
        TellLoading("warm"),
        TellRunning("warm", LOADED, 0),
        BeginRun(an_assignment("warm")),
    ]


def test_whoever_is_not_up_waits_for_its_own_load_and_the_next_is_asked() -> None:
    machine = a_machine()
    loading(machine, "cold")
    assert assigned(machine, "other") == [TakeUp(an_assignment("other"))]
    assert machine.handle(TakenUp("other", None), 1.0) == []
    assert assigned(machine, "warm") == [TakeUp(an_assignment("warm"))], "each is asked once"
    machine.handle(TakenUp("warm", LOADED), 1.0)
    commands = machine.handle(LoadReturned("cold", LOADED), 2.0)
    assert BeginLoad(an_assignment("other")) in commands


def test_a_load_that_is_done_at_once_is_overtaken_by_nobody() -> None:
    machine = a_machine()
    assigned(machine, "first")  # its load goes on, as far as the machine was told, or is over soon
    assert assigned(machine, "second") == []


def test_nobody_overtakes_what_is_loaded() -> None:
    machine = a_machine()
    loading(machine, "cold")
    assigned(machine, "warm")
    machine.handle(TakenUp("warm", LOADED), 1.0)
    machine.handle(LoadReturned("cold", LOADED), 2.0)
    loading(machine, "next")
    assert assigned(machine, "late") == []
    assert BeginRun(an_assignment("cold")) in machine.handle(RunReturned("warm", DRAWN), 3.0)
    commands = machine.handle(RunReturned("cold", DRAWN), 4.0)
    assert TakeUp(an_assignment("late")) in commands, "the device would idle again"


def test_while_something_runs_nobody_is_asked() -> None:
    machine = a_machine()
    assigned(machine, "running")
    machine.handle(LoadReturned("running", LOADED), 0.0)
    loading(machine, "cold")
    assert assigned(machine, "warm") == []
    commands = machine.handle(RunReturned("running", DRAWN), 1.0)
    assert TakeUp(an_assignment("warm")) in commands


def test_a_model_that_runs_is_not_asked_for() -> None:
    machine = a_machine(concurrency=2)
    assigned(machine, "running", "x")
    machine.handle(LoadReturned("running", LOADED), 0.0)
    loading(machine, "cold")
    assert assigned(machine, "same", "x") == []
    assert assigned(machine, "warm", "y") == [TakeUp(an_assignment("warm", "y"))]


def test_one_that_found_no_room_is_overtaken_no_more() -> None:
    machine = a_machine()
    loading(machine, "cold")
    assigned(machine, "warm")
    machine.handle(TakenUp("warm", LOADED), 1.0)
    machine.handle(LoadReturned("cold", NoRoomYet()), 1.5)
    assert BeginLoad(an_assignment("cold")) in machine.handle(RunReturned("warm", DRAWN), 2.0)
    machine.handle(LoadLasts("cold"), 2.0)
    assert assigned(machine, "late") == []


def test_no_more_runs_begin_before_it_than_allowed() -> None:
    machine = a_machine(overtakes_max=1)
    loading(machine, "cold")
    assigned(machine, "first")
    machine.handle(TakenUp("first", LOADED), 1.0)
    assigned(machine, "second")
    commands = machine.handle(RunReturned("first", DRAWN), 2.0)
    assert not any(isinstance(command, TakeUp) for command in commands)
    strict = a_machine(overtakes_max=0)
    loading(strict, "cold")
    assert assigned(strict, "warm") == []


def test_the_meter_counts_the_run_alone_and_the_load_of_what_is_up_takes_no_time() -> None:
    machine = a_machine()
    loading(machine, "cold")
    assigned(machine, "warm")
    machine.handle(TakenUp("warm", LOADED), 1.0)
    commands = machine.handle(RunReturned("warm", replace(DRAWN, seed=1)), 3.25)
    assert commands, "stored next"
    (line,) = [each for each in machine.statuses(4.0) if each.attempt_id == "warm"]
    assert line.metered_ms == 2250
    running = machine.handle(LoadReturned("cold", LOADED), 7.0)
    assert TellRunning("cold", LOADED, 7000) in running


def test_one_that_was_cancelled_before_the_answer_lets_its_model_go() -> None:
    machine = a_machine()
    loading(machine, "cold")
    assigned(machine, "warm")
    machine.handle(CancelRequested("warm", "no"), 0.5)
    assert machine.handle(TakenUp("warm", LOADED), 1.0) == [ReleaseModel("warm")]


# ---- whatever comes, on virtual time -------------------------------------------------------------


@dataclass
class Bench:
    """One worker on virtual time. Attempts are (arrives, loads for, runs for, up at the start)."""

    attempts: list[tuple[float, float, float, bool]]
    up: set[int] = field(default_factory=set)
    began: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    loaded: dict[int, float] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def run(self) -> None:
        self.up = {number for number, each in enumerate(self.attempts) if each[3]}
        self._machine = a_machine()
        self._agenda: list[tuple[float, int, Event]] = []
        for number, (arrives, *_) in enumerate(self.attempts):
            self._later(arrives, Assigned(an_assignment(str(number)), 0))
        while self._agenda:
            self._agenda.sort(key=lambda each: each[:2])
            now, _, event = self._agenda.pop(0)
            if isinstance(event, LoadReturned):
                self.up.add(int(event.attempt_id))
                self.loaded[int(event.attempt_id)] = now
            if isinstance(event, RunReturned):
                self.ended[int(event.attempt_id)] = now
            self._handle(event, now)

    def _later(self, at: float, event: Event) -> None:
        self._count = getattr(self, "_count", 0) + 1
        self._agenda.append((at, self._count, event))

    def _handle(self, event: Event, now: float) -> None:
        answers = [event]
        while answers:
            for command in self._machine.handle(answers.pop(0), now):
                match command:
                    case BeginLoad(job):
                        number = int(job.attempt_id)
                        seconds = 0.0 if number in self.up else self.attempts[number][1]
                        if seconds:
                            answers.append(LoadLasts(job.attempt_id))
                            self._later(now + seconds, LoadReturned(job.attempt_id, LOADED))
                        else:
                            self.loaded[number] = now
                            answers.append(LoadReturned(job.attempt_id, LOADED))
                    case TakeUp(job):
                        here = int(job.attempt_id) in self.up
                        answers.append(TakenUp(job.attempt_id, LOADED if here else None))
                        if here:
                            self.loaded[int(job.attempt_id)] = now
                    case BeginRun(job):
                        number = int(job.attempt_id)
                        self.began[number] = now
                        self.order.append(number)
                        self._later(
                            now + self.attempts[number][2], RunReturned(job.attempt_id, DRAWN)
                        )
                    case TellFinished():
                        raise AssertionError("nothing ends but by its run here")
                    case _:
                        pass


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 12), st.integers(1, 9), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_an_overtaken_attempt_starts_at_most_one_run_later_than_its_loads_end(
    attempts: list[tuple[float, float, float, bool]],
) -> None:
    attempts.sort(key=lambda each: each[0])
    bench = Bench(attempts)
    bench.run()
    assert sorted(bench.order) == list(range(len(attempts))), "each runs, and once"
    runs = sorted((bench.began[n], bench.ended[n], n) for n in bench.order)
    for number in bench.order:
        loaded, began = bench.loaded[number], bench.began[number]
        # Of those that came later, only one that ran already when its load ended.
        between = [n for start, end, n in runs if n > number and start < began and end > loaded]
        assert len(between) <= 1
        assert all(bench.began[n] <= loaded for n in between)
    # And never does the device idle while one that is up waits.
    for number in bench.order:
        if attempts[number][3]:
            busy = sum(
                max(0, min(end, bench.began[number]) - max(start, attempts[number][0]))
                for start, end, _ in runs
            )
            assert busy == bench.began[number] - attempts[number][0]
