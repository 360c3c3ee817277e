"""The shell asks the engine for what is up while a load goes on in its thread."""

from __future__ import annotations

import asyncio
from pathlib import Path

from quickthaw.wire.blob_store import open_blob_store
from quickthaw.wire.errors import SnapshotInvalid
from quickthaw.worker.artifacts import ArtifactStore
from quickthaw.worker.attempts import Assignment, LoadSummary, Outcome, RunResult
from quickthaw.worker.events import Assigned
from quickthaw.worker.families.noop import NoopEngine
from quickthaw.worker.machine import AttemptMachine
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.outbox import Outbox
from quickthaw.worker.ports import StopSignal
from quickthaw.worker.shell import Shell


class Slow(NoopEngine):
    """Models are up if they are called so; every other load waits until it is let go on."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.go_on = asyncio.Event()
        self.ran: list[str] = []

    def take_up(self, assignment: Assignment) -> LoadSummary | None:
        if assignment.model == "broken":
            raise SnapshotInvalid("no such thing")
        return LoadSummary() if assignment.model == "up" else None

    def load_at_once(self, assignment: Assignment) -> LoadSummary | None:
        return self.take_up(assignment)

    async def load(self, assignment: Assignment, stop: StopSignal) -> LoadSummary:
        await self.go_on.wait()
        if assignment.model == "broken":
            raise SnapshotInvalid("no such thing")
        return LoadSummary()

    def run_at_once(self, assignment: Assignment) -> tuple[RunResult, float]:
        self.ran.append(assignment.attempt_id)
        return RunResult((), "{}"), 0.0


async def test_a_model_that_is_up_runs_while_another_load_goes_on(tmp_path: Path) -> None:
    engine, outbox = Slow(), Outbox(16, lambda kind: None)
    machine = AttemptMachine(1, 8, ready_max=2, overtakes_max=16)
    store = ArtifactStore(open_blob_store(str(tmp_path)), str(tmp_path))
    shell = Shell(machine, lambda family: engine, store, outbox, WorkerMetrics())
    for attempt_id, model in (("1", "cold"), ("2", "broken"), ("3", "up"), ("4", "cold")):
        job = Assignment(attempt_id, f"r{attempt_id}", model, "sd", model, "", "{}", 1, (), 0)
        shell.post(Assigned(job, 0))
    assert engine.ran == ["3"], "with no turn of the event loop in between"
    engine.go_on.set()
    while not machine.idle:
        shell.changed.clear()
        await shell.changed.wait()
    assert engine.ran == ["3", "1", "4"]
    ends = {end.attempt_id: end.outcome for end in machine.unacknowledged()}
    assert ends["2"] is Outcome.FAILED, "its own load says what is wrong with it"
    await shell.close()
