"""The attempts of a worker as a pure machine: what begins when, what is metered, what is told."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from quickthaw.worker.attempts import (
    Assignment,
    Failure,
    LoadSummary,
    NoRoomYet,
    Outcome,
    Phase,
    RunResult,
    Stopped,
    StoredArtifact,
)
from quickthaw.worker.commands import (
    BeginLoad,
    BeginRun,
    BeginStore,
    Command,
    ReleaseModel,
    StopWork,
    TellFinished,
    TellLoading,
    TellRunning,
)
from quickthaw.worker.events import (
    Assigned,
    CancelAll,
    CancelRequested,
    EndsAcknowledged,
    LeaseExpired,
    LoadReturned,
    Revoked,
    RunReturned,
    StoreReturned,
)
from quickthaw.worker.machine import AttemptMachine

LOADED = LoadSummary(total_seconds=0.5)
DRAWN = RunResult((), '{"x": 1}', seed=3, first_step_seconds=0.1)
ARTIFACT = StoredArtifact("artifacts/r/0.png", "0.png", "image/png", 3, "ab", 8, 8)
FULL = Failure("STORAGE_FULL", "full", retryable=True)


def an_assignment(attempt_id: str, *, snapshot: str = "", deadline_unix_ms: int = 0) -> Assignment:
    return Assignment(
        attempt_id=attempt_id,
        request_id=f"request-of-{attempt_id}",
        model="test/model",
        family="sd",
        snapshot_digest=snapshot,
        snapshot_uri="",
        input_json="{}",
        attempt=1,
        evict_digests=(),
        deadline_unix_ms=deadline_unix_ms,
    )


def a_machine(concurrency: int = 1, attempts_max: int = 16) -> AttemptMachine:
    return AttemptMachine(concurrency, attempts_max)


def assigned(machine: AttemptMachine, attempt_id: str, snapshot: str = "") -> list[Command]:
    return machine.handle(Assigned(an_assignment(attempt_id, snapshot=snapshot), 0), 0.0)


def running(machine: AttemptMachine, attempt_id: str, now: float = 0.0) -> None:
    assigned(machine, attempt_id)
    commands = machine.handle(LoadReturned(attempt_id, LOADED), now)
    assert BeginRun(an_assignment(attempt_id)) in commands


def ends(commands: list[Command]) -> list[TellFinished]:
    return [command for command in commands if isinstance(command, TellFinished)]


def test_an_attempt_loads_runs_stores_and_ends_in_that_order() -> None:
    machine = a_machine()
    job = an_assignment("a")
    assert machine.handle(Assigned(job, 0), 1.0) == [TellLoading("a"), BeginLoad(job)]
    assert machine.handle(LoadReturned("a", LOADED), 1.25) == [
        TellRunning("a", LOADED, 250),
        BeginRun(job),
    ]
    assert machine.handle(RunReturned("a", DRAWN), 3.5) == [BeginStore(job, ())]
    (end,) = machine.handle(StoreReturned("a", (ARTIFACT,)), 9.0)
    assert isinstance(end, TellFinished)
    assert (end.outcome, end.load_ms, end.seed) == (Outcome.SUCCEEDED, 250, 3)
    assert (end.output_json, end.artifacts) == ('{"x": 1}', (ARTIFACT,))
    assert end.first_step_seconds == 0.1


def test_metered_time_is_the_run_alone_in_whole_milliseconds() -> None:
    machine = a_machine()
    running(machine, "a", now=100.0)
    machine.handle(RunReturned("a", DRAWN), 102.3456)
    (end,) = ends(machine.handle(StoreReturned("a", ()), 500.0))
    assert end.metered_ms == 2345


def test_the_next_run_begins_while_outputs_are_stored() -> None:
    machine = a_machine()
    running(machine, "a")
    assigned(machine, "b")
    machine.handle(LoadReturned("b", LOADED), 1.0)
    commands = machine.handle(RunReturned("a", DRAWN), 2.0)
    assert [type(command) for command in commands] == [BeginStore, TellRunning, BeginRun]


def test_a_load_overlaps_the_run_before_it_but_only_as_far_as_runs_can_follow() -> None:
    machine = a_machine()
    running(machine, "a")
    assert BeginLoad(an_assignment("b")) in assigned(machine, "b")
    assert not assigned(machine, "c")
    assert not machine.handle(LoadReturned("b", LOADED), 1.0)  # b waits, so c must not load yet
    commands = machine.handle(RunReturned("a", DRAWN), 2.0)
    assert BeginRun(an_assignment("b")) in commands
    assert BeginLoad(an_assignment("c")) in commands


def test_one_snapshot_runs_once_at_a_time_and_another_passes_it() -> None:
    machine = a_machine(concurrency=2)
    for attempt_id, snapshot in (("a", "x"), ("b", "x"), ("c", "y")):
        assigned(machine, attempt_id, snapshot=snapshot)
        commands = machine.handle(LoadReturned(attempt_id, LOADED), 1.0)
        assert any(isinstance(c, BeginRun) for c in commands) == (attempt_id != "b")
    statuses = {line.attempt_id: line.phase for line in machine.statuses(1.0)}
    assert statuses == {"a": Phase.RUNNING, "b": Phase.READY, "c": Phase.RUNNING}


def test_a_load_without_room_is_tried_again_when_a_run_has_ended() -> None:
    machine = a_machine()
    running(machine, "a")
    assigned(machine, "b")
    assert not machine.handle(LoadReturned("b", NoRoomYet()), 1.0)
    commands = machine.handle(RunReturned("a", DRAWN), 2.0)
    assert BeginLoad(an_assignment("b")) in commands


def test_a_load_without_room_is_tried_at_once_when_nothing_can_make_room() -> None:
    machine = a_machine()
    assigned(machine, "a")
    assert BeginLoad(an_assignment("a")) in machine.handle(LoadReturned("a", NoRoomYet()), 1.0)


def test_cancelling_before_the_run_ends_at_once_and_meters_nothing() -> None:
    for steps, expected in (
        ((), StopWork("a")),  # loading
        ((LoadReturned("a", LOADED),), ReleaseModel("a")),  # ready behind another run
    ):
        machine = a_machine()
        if steps:
            running(machine, "other")
        assigned(machine, "a")
        for step in steps:
            machine.handle(step, 1.0)
        commands = machine.handle(CancelRequested("a", "why not"), 2.0)
        assert expected in commands
        (end,) = ends(commands)
        assert (end.outcome, end.metered_ms) == (Outcome.CANCELLED, 0)
        assert end.failure == Failure("CANCELLED", "why not")


def test_a_model_loaded_for_an_attempt_that_is_gone_is_released() -> None:
    machine = a_machine()
    assigned(machine, "a")
    machine.handle(CancelRequested("a", ""), 1.0)
    assert machine.handle(LoadReturned("a", LOADED), 2.0) == [ReleaseModel("a")]


def test_a_cancelled_run_is_metered_until_it_has_stopped() -> None:
    machine = a_machine()
    running(machine, "a", now=1.0)
    assert machine.handle(CancelRequested("a", "enough"), 2.0) == [StopWork("a")]
    (end,) = ends(machine.handle(RunReturned("a", Stopped()), 2.5))
    assert (end.outcome, end.metered_ms) == (Outcome.CANCELLED, 1500)


def test_a_run_that_was_done_before_the_stop_reached_it_keeps_its_result() -> None:
    machine = a_machine()
    running(machine, "a")
    machine.handle(CancelRequested("a", ""), 2.0)
    machine.handle(RunReturned("a", DRAWN), 2.5)
    (end,) = ends(machine.handle(StoreReturned("a", ()), 3.0))
    assert end.outcome is Outcome.SUCCEEDED


def test_a_failed_store_fails_the_attempt_and_keeps_its_meter() -> None:
    machine = a_machine()
    running(machine, "a")
    machine.handle(RunReturned("a", DRAWN), 2.0)
    (end,) = ends(machine.handle(StoreReturned("a", FULL), 3.0))
    assert (end.outcome, end.failure, end.metered_ms) == (Outcome.FAILED, FULL, 2000)
    assert end.output_json == ""


def test_an_end_is_kept_until_it_is_acknowledged() -> None:
    machine = a_machine()
    running(machine, "a")
    (end,) = ends(machine.handle(RunReturned("a", FULL), 1.0))
    assert machine.unacknowledged() == [end]
    assert machine.statuses(2.0) == []
    (line,) = machine.statuses(2.0, ended=True)
    assert line.outcome is Outcome.FAILED
    machine.handle(EndsAcknowledged(("a",)), 3.0)
    assert machine.unacknowledged() == []


def test_a_revoked_attempt_is_stopped_and_forgotten_but_its_slot_stays_taken() -> None:
    machine = a_machine()
    running(machine, "a")
    assert machine.handle(Revoked(("a", "unknown")), 1.0) == [StopWork("a")]
    assert machine.statuses(1.0, ended=True) == []
    assert not machine.idle
    assigned(machine, "b")
    assert not machine.handle(LoadReturned("b", LOADED), 2.0)
    commands = machine.handle(RunReturned("a", Stopped()), 3.0)
    assert not ends(commands)
    assert BeginRun(an_assignment("b")) in commands


def test_a_lost_lease_stops_what_runs_and_keeps_what_has_ended() -> None:
    machine = a_machine(concurrency=2)
    running(machine, "ended")
    machine.handle(RunReturned("ended", FULL), 1.0)
    running(machine, "runs", now=1.0)
    assert machine.handle(LeaseExpired(), 2.0) == [StopWork("runs")]
    assert [end.attempt_id for end in machine.unacknowledged()] == ["ended"]


def test_the_final_figure_never_falls_below_one_that_was_reported() -> None:
    machine = a_machine()
    running(machine, "a", now=1.0)
    (line,) = machine.statuses(2.0)  # the run ended a little before this, unheard yet
    (end,) = ends(machine.handle(RunReturned("a", FULL), 1.999))
    assert (line.metered_ms, end.metered_ms) == (1000, 1000)


def test_a_deadline_that_passed_while_waiting_ends_the_attempt_unrun() -> None:
    machine = a_machine()
    running(machine, "a")
    late = an_assignment("late", deadline_unix_ms=100)
    machine.handle(Assigned(late, 50), 1.0)
    machine.handle(LoadReturned("late", LOADED, 60), 1.1)
    commands = machine.handle(RunReturned("a", DRAWN, 150), 2.0)
    (end,) = ends(commands)
    assert (end.attempt_id, end.metered_ms) == ("late", 0)
    assert end.failure is not None
    assert end.failure.reason == "DEADLINE_EXPIRED"
    assert ReleaseModel("late") in commands


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, every attempt ends once, and limits hold."""

    concurrency = 2
    attempts_max = 5

    def __init__(self) -> None:
        super().__init__()
        self.machine = AttemptMachine(self.concurrency, self.attempts_max)
        self.now = 0.0
        self.count = 0
        self.loading: set[str] = set()
        self.runs: dict[str, float] = {}
        self.storing: set[str] = set()
        self.in_use: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.forgotten: set[str] = set()
        self.snapshots: dict[str, str] = {}

    attempts = Bundle("attempts")

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case BeginLoad(job):
                    assert not self.loading, "loads one at a time"
                    self.loading.add(job.attempt_id)
                case BeginRun(job):
                    assert job.attempt_id in self.in_use, "runs only what is loaded"
                    self.runs[job.attempt_id] = self.now
                case BeginStore(job, _):
                    self.storing.add(job.attempt_id)
                case ReleaseModel(attempt_id):
                    self.in_use.remove(attempt_id)
                case TellFinished():
                    assert command.attempt_id not in self.forgotten
                    self.ended[command.attempt_id] += 1
                case _:
                    pass

    def happen(self, event: object) -> None:
        self.now += 0.125
        self.perform(self.machine.handle(event, self.now))  # type: ignore[arg-type]  # one of the rules' events

    @rule(target=attempts, snapshot=st.sampled_from(["", "x", "y"]))
    def assign(self, snapshot: str) -> str:
        self.count += 1
        attempt_id = f"a{self.count}"
        self.snapshots[attempt_id] = snapshot
        self.happen(Assigned(an_assignment(attempt_id, snapshot=snapshot), 1))
        return attempt_id

    @rule(result=st.sampled_from([LOADED, LOADED, NoRoomYet(), FULL]))
    def a_load_returns(self, result: LoadSummary | NoRoomYet | Failure) -> None:
        if self.loading:
            attempt_id = self.loading.pop()
            if isinstance(result, LoadSummary):
                self.in_use.add(attempt_id)
            self.happen(LoadReturned(attempt_id, result, 1))

    @rule(result=st.sampled_from([DRAWN, FULL, Stopped()]), data=st.data())
    def a_run_returns(self, result: RunResult | Failure | Stopped, data: st.DataObject) -> None:
        if self.runs:
            attempt_id = data.draw(st.sampled_from(sorted(self.runs)))
            del self.runs[attempt_id]
            self.in_use.remove(attempt_id)
            self.happen(RunReturned(attempt_id, result, 1))

    @rule(result=st.sampled_from([(), FULL]), data=st.data())
    def a_store_returns(self, result: tuple[()] | Failure, data: st.DataObject) -> None:
        if self.storing:
            attempt_id = data.draw(st.sampled_from(sorted(self.storing)))
            self.storing.remove(attempt_id)
            self.happen(StoreReturned(attempt_id, result))

    @rule(attempt_id=attempts)
    def cancel(self, attempt_id: str) -> None:
        self.happen(CancelRequested(attempt_id, "test"))

    @rule(attempt_id=consumes(attempts))
    def revoke(self, attempt_id: str) -> None:
        self.forgotten.add(attempt_id)
        self.happen(Revoked((attempt_id,)))

    @rule(attempt_id=attempts)
    def acknowledge(self, attempt_id: str) -> None:
        self.happen(EndsAcknowledged((attempt_id,)))

    @rule()
    def lease_expires(self) -> None:
        held = {line.attempt_id for line in self.machine.statuses(self.now)}
        self.forgotten |= held
        self.happen(LeaseExpired())

    @invariant()
    def limits_hold(self) -> None:
        assert len(self.runs) <= self.concurrency
        assert self.machine.running == len(self.runs)
        running = [self.snapshots[each] for each in self.runs if self.snapshots[each]]
        assert len(running) == len(set(running)), "one run at a time for each snapshot"
        assert len(self.machine.statuses(self.now)) <= self.attempts_max
        assert all(count == 1 for count in self.ended.values())

    def teardown(self) -> None:
        """Stopped and worked off, nothing is left in use and every attempt has had its end."""
        self.happen(CancelAll("over"))
        while self.loading or self.runs or self.storing:
            if self.loading:
                attempt_id = self.loading.pop()
                self.in_use.add(attempt_id)
                self.happen(LoadReturned(attempt_id, LOADED, 1))
            for attempt_id in list(self.runs):
                del self.runs[attempt_id]
                self.in_use.remove(attempt_id)
                self.happen(RunReturned(attempt_id, Stopped(), 1))
            for attempt_id in list(self.storing):
                self.storing.remove(attempt_id)
                self.happen(StoreReturned(attempt_id, ()))
        assert self.machine.idle
        assert not self.in_use
        for index in range(1, self.count + 1):
            assert self.ended[f"a{index}"] == 1 or f"a{index}" in self.forgotten


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.floats(0, 1e6), st.floats(0, 1e5))
def test_metered_milliseconds_are_within_one_of_the_real_time(began: float, lasted: float) -> None:
    machine = a_machine()
    running(machine, "a", now=began)
    (end,) = ends(machine.handle(RunReturned("a", FULL), began + lasted))
    assert lasted * 1000 - 1.001 <= end.metered_ms <= lasted * 1000 + 0.001
