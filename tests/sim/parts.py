"""What the simulated cluster is made of: a journal that survives, and workers at work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from quickthaw.scheduler.core import commands as out
from quickthaw.scheduler.core import events as into
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Component,
    Digest,
    Job,
    LedgerLine,
    ModelId,
    ModelSpec,
    RequestId,
    WorkerId,
    WorkerSpec,
)


@dataclass(slots=True)
class Row:
    """A request as the journal has it."""

    job: Job
    state: RequestState = RequestState.QUEUED
    attempts: int = 0
    open: AttemptRecord | None = None
    lost_on: frozenset[WorkerId] = frozenset()
    cancel: bool = False
    ends: int = 0


class Journal:
    """Durable: survives the scheduler. Applies whole commands in order."""

    def __init__(self) -> None:
        self.rows: dict[RequestId, Row] = {}
        self.ledger: dict[AttemptId, LedgerLine] = {}

    def apply(self, command: out.Journal | out.JournalSoon) -> None:
        match command:
            case out.JournalPlacement(attempt=attempt):
                row = self.rows[attempt.request_id]
                assert row.open is None, "placed twice"
                assert not row.state.terminal, "placed after its end"
                row.open, row.attempts, row.state = attempt, attempt.number, RequestState.PLACED
            case out.JournalProgress(attempt=attempt, state=state):
                row = self.rows[attempt.request_id]
                row.open, row.state = attempt, state
            case out.JournalMetered(metered_ms=metered):
                for attempt_id, metered_ms in metered:
                    row = self.rows[RequestId(attempt_id.rpartition(".")[0])]
                    assert row.open is not None
                    assert row.open.attempt_id == attempt_id
                    row.open = row.open._replace(metered_ms=metered_ms)
            case out.JournalCancel(request_id=request_id):
                self.rows[request_id].cancel = True
            case out.JournalEnd():
                self._end(command)
            case _:
                raise AssertionError(f"not a write: {command}")

    def _end(self, command: out.JournalEnd) -> None:
        row = self.rows[command.job.request_id]
        if command.ledger is not None:
            line = command.ledger
            assert line.attempt_id not in self.ledger, f"{line.attempt_id} billed twice"
            self.ledger[line.attempt_id] = line
        row.open = None
        match command.then:
            case out.RequestEnd(state=state, receipt=receipt):
                row.ends += 1
                row.state = state
                if command.ledger is not None:
                    assert receipt.billed_ms == command.ledger.billed_ms
                    assert receipt.price_nanodollars == command.ledger.price_nanodollars
            case out.Requeued():
                row.state = RequestState.QUEUED
                assert command.attempt is not None
                row.lost_on |= {command.attempt.worker_id}


@dataclass(slots=True)
class Work:
    """An attempt at a simulated worker."""

    attempt_id: AttemptId
    job: Job
    evict: tuple[Digest, ...]
    state: RequestState = RequestState.PLACED
    started_ms: int = 0
    end: into.AttemptFinished | None = None


@dataclass(slots=True)
class SimWorker:
    """A worker process: runs one after the other, and says its ends until acknowledged."""

    spec: WorkerSpec
    vram: dict[Digest, int] = field(default_factory=dict)
    work: dict[AttemptId, Work] = field(default_factory=dict)
    stream: int = 0
    """Which stream is the live one; 0 for none. Messages of others are lost."""
    latency_ms: int = 10
    """Of its wire, either way."""
    silent_until_ms: int = 0
    acked_ms: int = 0
    beats: int = 0
    ran_ms: dict[AttemptId, int] = field(default_factory=dict)


def sim_models(random: Random) -> list[ModelSpec]:
    """Six that share a text encoder."""
    shared = Component(Digest("text"), 10)
    return [
        ModelSpec(
            ModelId(f"sim/{name}"),
            "sd",
            name,
            "",
            (shared, Component(Digest(name), random.randrange(20, 60))),
            random.randrange(1, 15),
        )
        for name in "klmnop"
    ]


def a_sim_worker(random: Random, number: int) -> SimWorker:
    spec = WorkerSpec(
        WorkerId(f"w{number}"),
        "i",
        random.choice(["h100", "l4"]),
        random.randrange(100, 180),
        concurrency=random.choice((1, 1, 2)),
        batch_max=random.choice((1, 3)),
        batch_families=frozenset({"sd"}),
    )
    return SimWorker(spec, latency_ms=random.choice((1, 20, 300)))


def check_limits(
    machine: Machine, job: Job, tenants: Mapping[str, int], endpoints: Mapping[ModelId, int]
) -> None:
    """The job has just been placed: neither its tenant nor its endpoint has more open than it may;
    0 is no limit."""
    views = [machine.request(request_id) for request_id in machine.requests()]
    held = [view.job for view in views if view is not None and view.state.held]
    of_tenant = sum(each.tenant == job.tenant for each in held)
    for_model = sum(each.model.id == job.model.id for each in held)
    for count, limit in ((of_tenant, tenants[job.tenant]), (for_model, endpoints[job.model.id])):
        assert not limit or count <= limit, f"{count} open, limit {limit}"
