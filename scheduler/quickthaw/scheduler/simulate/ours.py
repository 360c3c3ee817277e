"""Our policy: the scheduler's own core, fed with what the virtual workers do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quickthaw.scheduler.core import commands, events
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import (
    AttemptId,
    Job,
    ModelSpec,
    Outcome,
    Priority,
    RequestId,
    Residency,
    TenantId,
    Tier,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.simulate.kinds import GpuKind
from quickthaw.scheduler.simulate.port import Assign, Order, Refuse, Stop
from quickthaw.scheduler.simulate.traces import Arrival
from quickthaw.scheduler.simulate.world import Attempt, Change, VirtualWorker

LEASE_MS = 10**12
"""Virtual workers send no heartbeats; their death is told at once, as a broken stream would."""


class Ours:
    """Feeds a `Machine`. Keys of requests become their ids."""

    def __init__(
        self,
        workers: Sequence[VirtualWorker],
        kinds: Iterable[GpuKind],
        settings: CoreSettings,
    ) -> None:
        rates = {kind.gpu_type: kind.rate_nanodollars_per_second for kind in kinds}
        self._machine = Machine(settings, PriceTable("simulated", 10**6, rates))
        self._workers = {worker.name: worker for worker in workers}
        self._run_seconds: dict[str, float] = {}
        self._attempts: dict[str, AttemptId] = {}
        self._out: list[Order] = []
        for worker in workers:
            self.came(worker, 0.0)

    def _feed(self, event: events.Event, now: float) -> None:
        for command in self._machine.handle(event, round(now * 1000)):
            match command:
                case commands.SendAssign():
                    key = str(command.job.request_id)
                    self._attempts[key] = command.attempt_id
                    seconds = self._run_seconds[key]
                    attempt = Attempt(key, command.job.model, seconds, command.evict_digests)
                    self._out.append(Assign(self._workers[command.worker_id], attempt))
                case commands.SendCancel():
                    key = command.attempt_id.rpartition(".")[0]
                    self._out.append(Stop(self._workers[command.worker_id], key))
                case commands.TellEnd() if command.end.failure is not None:
                    key = str(command.job.request_id)
                    self._run_seconds.pop(key)
                    self._attempts.pop(key, None)
                    self._out.append(Refuse(key))
                case _:
                    pass

    def arrived(self, key: str, arrival: Arrival, model: ModelSpec, now: float) -> None:
        self._run_seconds[key] = arrival.run_seconds
        job = Job(
            RequestId(key),
            TenantId(arrival.tenant),
            model,
            round(now * 1000),
            priority=Priority(arrival.priority),
            work_units=arrival.work_units,
            deadline_ms=round((now + arrival.deadline_seconds) * 1000)
            if arrival.deadline_seconds
            else 0,
        )
        self._feed(events.RequestJournalled(job), now)

    def began_load(self, worker: VirtualWorker, attempt: Attempt, now: float) -> None:
        worker_id = WorkerId(worker.name)
        self._feed(events.AttemptLoading(worker_id, self._attempts[attempt.key]), now)

    def began_run(self, worker: VirtualWorker, attempt: Attempt, now: float) -> None:
        running = events.AttemptRunning(
            WorkerId(worker.name),
            self._attempts[attempt.key],
            round(attempt.load_seconds * 1000),
            attempt.tier,
        )
        self._feed(running, now)

    def ended(
        self, worker: VirtualWorker, attempt: Attempt, run_seconds: float, now: float
    ) -> None:
        self._run_seconds.pop(attempt.key)
        finished = events.AttemptFinished(
            WorkerId(worker.name),
            self._attempts.pop(attempt.key),
            RequestId(attempt.key),
            Outcome.SUCCEEDED,
            max(1, round(run_seconds * 1000)),
        )
        self._feed(finished, now)

    def stopped(
        self, worker: VirtualWorker, attempt: Attempt, run_seconds: float, now: float
    ) -> None:
        finished = events.AttemptFinished(
            WorkerId(worker.name),
            self._attempts[attempt.key],
            RequestId(attempt.key),
            Outcome.CANCELLED,
            round(run_seconds * 1000),
        )
        self._feed(finished, now)

    def changed(self, worker: VirtualWorker, change: Change, now: float) -> None:
        self._feed(
            events.ResidencyChanged(
                WorkerId(worker.name), tuple(change.added), tuple(change.removed)
            ),
            now,
        )

    def left(self, worker: VirtualWorker, lost: Sequence[Attempt], now: float) -> None:
        self._feed(events.WorkerGoodbye(WorkerId(worker.name)), now)

    def came(self, worker: VirtualWorker, now: float) -> None:
        kind = worker.kind
        spec = WorkerSpec(
            WorkerId(worker.name),
            f"{worker.name}.{worker.generation}",
            kind.gpu_type,
            kind.vram_bytes,
            kind.pinned_bytes,
            tier_speeds=kind.tiers,
        )
        on_disk = tuple(Residency(digest, Tier.DISK, 0) for digest in sorted(worker.disk))
        self._feed(events.WorkerHello(spec, on_disk), now)

    def tick(self, now: float) -> None:
        self._feed(events.Tick(), now)

    def next_tick(self) -> float | None:
        next_ms = self._machine.next_timer_ms()
        return None if next_ms is None or next_ms >= LEASE_MS else next_ms / 1000

    def orders(self) -> Sequence[Order]:
        out, self._out = self._out, []
        return out
