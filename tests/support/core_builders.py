"""Builders for tests of the scheduling core, and `Scenario`, a machine with its invariants."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TypeVar

from quickthaw.scheduler.core.commands import (
    Command,
    JournalEnd,
    JournalPlacement,
    SendAssign,
    TellEnd,
)
from quickthaw.scheduler.core.events import (
    AttemptFinished,
    AttemptRunning,
    Event,
    RequestJournalled,
    RequestRecovered,
    Tick,
    WorkerHello,
)
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import (
    AttemptId,
    Component,
    Digest,
    Job,
    ModelId,
    ModelSpec,
    Outcome,
    Priority,
    RequestId,
    Residency,
    TenantId,
    Tier,
    TierSpeed,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.pricing import RESERVED, PriceTable, bill
from quickthaw.scheduler.core.settings import CoreSettings

GIB = 1 << 30
PRICES = PriceTable("test-1", 1_000_000, {"h100": 1_000_000, "cheap": 100_000})
SPEEDS = {
    Tier.PINNED: TierSpeed(20.0 * GIB, 0.01),
    Tier.DISK: TierSpeed(2.0 * GIB, 0.05),
    Tier.REMOTE: TierSpeed(0.5 * GIB, 0.5),
}

_C = TypeVar("_C")


def a_model(
    name: str = "m",
    *,
    gib: float = 4,
    working_gib: float = 1,
    shared: tuple[Component, ...] = (),
) -> ModelSpec:
    """A model with one component of its own and perhaps some shared ones."""
    own = Component(Digest(f"{name}-weights"), int(gib * GIB), "transformer")
    return ModelSpec(
        id=ModelId(f"test/{name}"),
        family="sd",
        snapshot_digest=f"snapshot-{name}",
        snapshot_uri=f"/snapshots/{name}",
        components=(*shared, own),
        working_bytes=int(working_gib * GIB),
    )


def a_component(name: str, *, gib: float) -> Component:
    return Component(Digest(name), int(gib * GIB), name)


def a_job(
    request_id: str = "req_1",
    model: ModelSpec | None = None,
    *,
    tenant: str = "acme",
    submitted_ms: int = 0,
    priority: Priority = Priority.NORMAL,
    work_units: float = 1.0,
    deadline_ms: int = 0,
    worker_hint: str = "",
    second_worth_nanodollars: int = 0,
    price_cap_nanodollars: int = 0,
) -> Job:
    return Job(
        request_id=RequestId(request_id),
        tenant=TenantId(tenant),
        model=model or a_model(),
        submitted_ms=submitted_ms,
        priority=priority,
        work_units=work_units,
        deadline_ms=deadline_ms,
        worker_hint=worker_hint,
        second_worth_nanodollars=second_worth_nanodollars,
        price_cap_nanodollars=price_cap_nanodollars,
    )


def a_worker(
    worker_id: str = "w1",
    *,
    free_gib: float = 40,
    gpu_type: str = "h100",
    incarnation: str = "first",
    concurrency: int = 1,
) -> WorkerSpec:
    """An empty worker."""
    return WorkerSpec(
        worker_id=WorkerId(worker_id),
        incarnation=incarnation,
        gpu_type=gpu_type,
        vram_bytes=int(free_gib * GIB),
        concurrency=concurrency,
        tier_speeds=SPEEDS,
    )


def resident(model: ModelSpec, tier: Tier = Tier.VRAM) -> tuple[Residency, ...]:
    """All components of a model in one tier."""
    return tuple(Residency(digest, tier, size) for digest, size in model.sizes.items())


def only(commands: list[Command], kind: type[_C]) -> _C:
    """The one command of a kind."""
    found = of_kind(commands, kind)
    assert len(found) == 1, f"{len(found)} {kind.__name__} in {commands}"
    return found[0]


def of_kind(commands: list[Command], kind: type[_C]) -> list[_C]:
    return [command for command in commands if isinstance(command, kind)]


class Scenario:
    """A machine that is fed events; `close` (the fixture's teardown) and every event check what
    must hold whatever happens. Its workers hold `queue_ahead` attempts beyond those that run, so
    that two requests fill one, whatever the default is."""

    def __init__(self, settings: CoreSettings | None = None, queue_ahead: int = 1) -> None:
        settings = settings or CoreSettings()
        placement = replace(settings.placement, queue_ahead=queue_ahead, queue_ahead_more=0)
        self.settings = replace(settings, placement=placement)
        self.machine = Machine(self.settings, PRICES)
        self.now_ms = 1_000
        self.accepted: set[RequestId] = set()
        self.ended: Counter[RequestId] = Counter()
        self.placed: Counter[AttemptId] = Counter()
        self.closed: Counter[AttemptId] = Counter()

    # ---- what happens ------------------------------------------------------------------------

    def feed(self, event: Event, *, after_ms: int = 0) -> list[Command]:
        self.now_ms += after_ms
        commands = self.machine.handle(event, self.now_ms)
        if isinstance(event, RequestJournalled):
            self.accepted.add(event.job.request_id)
        if isinstance(event, RequestRecovered):
            self.accepted.add(event.job.request_id)
            if event.open_attempt is not None:
                self.placed[event.open_attempt.attempt_id] += 1
        for command in commands:
            self._note(command)
        self.check()
        return commands

    def submit(self, job: Job) -> list[Command]:
        return self.feed(RequestJournalled(job))

    def attach(self, spec: WorkerSpec, *holding: Residency) -> list[Command]:
        return self.feed(WorkerHello(spec, holding))

    def run(self, assign: SendAssign, *, load_ms: int = 0, tier: Tier = Tier.VRAM) -> list[Command]:
        return self.feed(AttemptRunning(assign.worker_id, assign.attempt_id, load_ms, tier))

    def finish(
        self, assign: SendAssign, *, metered_ms: int = 100, outcome: Outcome = Outcome.SUCCEEDED
    ) -> list[Command]:
        request_id = assign.job.request_id
        return self.feed(
            AttemptFinished(assign.worker_id, assign.attempt_id, request_id, outcome, metered_ms),
            after_ms=metered_ms,
        )

    def wait(self, span_ms: int) -> list[Command]:
        return self.feed(Tick(), after_ms=span_ms)

    # ---- what must hold ----------------------------------------------------------------------

    def check(self) -> None:
        open_on: Counter[AttemptId] = Counter()
        for worker in self.machine.workers():
            assert worker.committed_bytes <= worker.spec.vram_bytes, worker.worker_id
            assert worker.places <= worker.depth, worker.worker_id
            assert len(worker.held) <= worker.depth * worker.spec.batch_max, worker.worker_id
            open_on.update(worker.held.keys())
            for attempt_id in worker.held:
                assert self.machine.owner(worker.worker_id, attempt_id) is not None
        assert all(count == 1 for count in open_on.values()), "an attempt on two workers"
        for request_id in self.machine.requests():
            view = self.machine.request(request_id)
            assert view is not None
            assert view.state.held == (view.attempt is not None)
            queued = self.machine.queue_position(request_id) is not None
            assert queued == (not view.state.held)
            assert self.ended[request_id] == 0, f"{request_id} has ended and lives on"
        assert all(count == 1 for count in self.ended.values()), "ended twice"
        assert all(count == 1 for count in self.closed.values()), "billed twice"

    def close(self) -> None:
        self.check()
        alive = set(self.machine.requests())
        assert self.accepted == alive | set(self.ended), "a request was lost"
        running = {
            view.attempt.attempt_id
            for request_id in alive
            if (view := self.machine.request(request_id)) is not None and view.attempt is not None
        }
        assert set(self.placed) == set(self.closed) | running, "an attempt without a ledger line"

    def _note(self, command: Command) -> None:
        match command:
            case JournalPlacement(attempt=attempt):
                self.placed[attempt.attempt_id] += 1
            case JournalEnd(ledger=ledger) if ledger is not None:
                self.closed[ledger.attempt_id] += 1
                if ledger.waiver == RESERVED:
                    assert (ledger.billed_ms, ledger.price_nanodollars) == (0, 0)
                    return
                billed = bill(
                    ledger.outcome,
                    ledger.metered_ms,
                    ledger.rate_nanodollars_per_second,
                    waived_for=ledger.waiver.removeprefix("failed:"),
                )
                assert billed == (ledger.billed_ms, ledger.price_nanodollars, ledger.waiver)
            case TellEnd(job=job):
                self.ended[job.request_id] += 1
            case _:
                pass
