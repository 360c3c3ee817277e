"""A cluster on virtual time: the real core, a simulated journal, wire and workers, and a seed.

What can go wrong here: workers crash and come back as a new process; streams break with everything
that is under way in them lost; finishes are said twice; workers fall silent behind a live stream;
the scheduler crashes, losing every write that is not committed, and starts again from the journal;
callers cancel; deadlines pass. After the trouble the cluster is left alone until all is quiet.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from quickthaw.scheduler.core import commands as out
from quickthaw.scheduler.core import events as into
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import (
    AttemptId,
    Digest,
    EndpointSettings,
    Failure,
    Job,
    Outcome,
    Priority,
    RequestId,
    Residency,
    TenantId,
    Tier,
    WorkerId,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.settings import CoreSettings
from sim.parts import (
    Journal,
    Row,
    SimWorker,
    Work,
    a_sim_worker,
    check_limits,
    sim_models,
)

SETTINGS = CoreSettings(lease_ms=5_000, heartbeat_interval_ms=1_000, max_attempts=3)
TENANTS = "abc"
PRICES = PriceTable("sim-1", 1_000, {"h100": 1_000_000, "l4": 200_000})


class Cluster:
    def __init__(self, seed: int, *, requests: int = 30, workers: int = 4) -> None:
        self.random = Random(seed)
        self.now_ms = 1_000_000
        self._order = itertools.count()
        self._streams = itertools.count(1)
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self.journal = Journal()
        self._uncommitted: list[out.Command] = []
        self._epoch = 0
        self.limits = {tenant: self.random.choice((0, 0, 1, 2)) for tenant in TENANTS}
        self.settings = replace(SETTINGS, tenant_concurrency=self.limits)
        self.models = sim_models(self.random)
        self.endpoints = {m.id: self.random.choice((0, 0, 0, 1, 2)) for m in self.models}
        self.machine = self._start_scheduler()
        made = [a_sim_worker(self.random, number) for number in range(workers)]
        self.workers = {worker.spec.worker_id: worker for worker in made}
        self._requests = requests
        self.told: dict[RequestId, int] = {}

    # ---- the run -----------------------------------------------------------------------------

    def run(self) -> None:
        """Until every request has ended; fails if that takes an hour of virtual time."""
        for worker in self.workers.values():
            self._later(self.random.randrange(3_000), partial(self._connect, worker))
        for number in range(self._requests):
            self._later(self.random.randrange(50_000), partial(self._submit, number))
        for _ in range(self.random.randrange(24)):
            self._later(self.random.randrange(60_000), self._make_trouble)
        self._later(500, self._tick)
        limit_ms = self.now_ms + 3_600_000
        while not self._quiet():
            at_ms, _, act = heapq.heappop(self._agenda)
            assert at_ms < limit_ms, "not done after an hour"
            self.now_ms = max(self.now_ms, at_ms)
            act()
            self._check()

    def _quiet(self) -> bool:
        rows = self.journal.rows
        return len(rows) == self._requests and all(row.state.terminal for row in rows.values())

    def _later(self, delay_ms: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now_ms + delay_ms, next(self._order), act))

    def _check(self) -> None:
        for worker in self.workers.values():
            at_work = (RequestState.LOADING, RequestState.RUNNING)
            used = sum(worker.vram.values()) + sum(
                work.job.model.working_bytes
                for work in worker.work.values()
                if work.end is None and work.state in at_work
            )
            assert used <= worker.spec.vram_bytes, "out of device memory"
        working = [
            attempt_id
            for worker in self.workers.values()
            for attempt_id, work in worker.work.items()
            if work.end is None
        ]
        # After a restart a worker may go on with an attempt whose placement was never written,
        # until it hears that the lease of that name is another's.
        assert len(working) == len(set(working)) or self._epoch, "an attempt on two workers"

    # ---- the scheduler -----------------------------------------------------------------------

    def _feed(self, event: into.Event) -> None:
        epoch = self._epoch
        for command in self.machine.handle(event, self.now_ms):
            if isinstance(command, out.Immediate):
                self._carry_out(command)
            else:
                self._uncommitted.append(command)
        if self._uncommitted:
            self._later(self.random.choice((1, 5, 250)), lambda: self._commit(epoch))

    def _commit(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        batch, self._uncommitted = self._uncommitted, []
        for command in batch:
            if isinstance(command, out.Journal | out.JournalSoon):
                self.journal.apply(command)
            else:
                self._carry_out(command)

    def _carry_out(self, command: out.Command) -> None:
        match command:
            case out.SendWelcome(worker_id=worker_id, revoked_attempt_ids=revoked):
                self._to_worker(worker_id, lambda w: self._acknowledged(w, revoked))
            case out.SendHeartbeatAck(worker_id=worker_id, revoked_attempt_ids=revoked):
                self._to_worker(worker_id, lambda w: self._acknowledged(w, revoked))
            case out.SendFinishedAck(worker_id=worker_id, attempt_id=attempt_id):
                self._to_worker(worker_id, lambda w: self._forget(w, attempt_id))
            case out.SendAssign():
                if not self._epoch:  # what an earlier scheduler had placed is a fact
                    check_limits(self.machine, command.job, self.limits, self.endpoints)
                self._to_worker(command.worker_id, lambda w: self._assigned(w, command))
            case out.SendCancel(worker_id=worker_id, attempt_id=attempt_id):
                self._to_worker(worker_id, lambda w: self._stop(w, attempt_id, by_order=True))
            case out.CloseStream(worker_id=worker_id):
                self._break(self.workers[worker_id])
            case out.TellEnd(job=job):
                row = self.journal.rows[job.request_id]
                assert row.state.terminal, "told before it was durable"
                self.told[job.request_id] = self.told.get(job.request_id, 0) + 1
            case _:
                pass

    def _tick(self) -> None:
        self._feed(into.Tick())
        due_ms = self.machine.next_timer_ms()
        delay_ms = 1_000 if due_ms is None else due_ms - self.now_ms
        self._later(min(1_000, max(1, delay_ms)), self._tick)

    def _start_scheduler(self) -> Machine:
        machine = Machine(self.settings, PRICES)
        for model, limit in self.endpoints.items():
            changed = into.EndpointChanged(model, EndpointSettings(concurrency_max=limit))
            machine.handle(changed, self.now_ms)
        return machine

    def _restart_scheduler(self) -> None:
        """Everything that is not in the journal is gone."""
        self._epoch += 1
        self._uncommitted = []
        self.machine = self._start_scheduler()
        for worker in self.workers.values():
            self._break(worker)
        for row in self.journal.rows.values():
            if row.state.terminal:
                continue
            state = row.state if row.open is not None else RequestState.PLACED
            self._feed(
                into.RequestRecovered(
                    row.job,
                    row.attempts,
                    row.open,
                    state,
                    row.lost_on,
                    cancel_requested=row.cancel,
                )
            )

    # ---- callers -----------------------------------------------------------------------------

    def _submit(self, number: int) -> None:
        random = self.random
        job = Job(
            request_id=RequestId(f"req_{number:03}"),
            tenant=TenantId(random.choice(TENANTS)),
            model=random.choice(self.models),
            submitted_ms=self.now_ms,
            priority=random.choice(list(Priority)),
            batch_key=random.choice(("", "alike")),
            deadline_ms=self.now_ms + random.randrange(5_000, 60_000)
            if random.random() < 0.2
            else 0,
        )
        self.journal.rows[job.request_id] = Row(job)
        self._feed(into.RequestJournalled(job))
        if random.random() < 0.2:
            self._later(
                random.randrange(8_000), lambda: self._feed(into.CancelRequested(job.request_id))
            )

    # ---- trouble -----------------------------------------------------------------------------

    def _make_trouble(self) -> None:
        worker = self.random.choice(list(self.workers.values()))
        match self.random.randrange(5):
            case 0:
                self._crash(worker)
            case 1:
                self._break(worker)
            case 2:
                worker.silent_until_ms = self.now_ms + self.random.randrange(10_000)
            case 3:
                self._restart_scheduler()
            case _:
                self._restart_scheduler()
                self._crash(worker)

    def _crash(self, worker: SimWorker) -> None:
        """The process dies and another starts in its place, with nothing in its memory."""
        incarnation = f"{worker.spec.incarnation}'"
        worker.spec = replace(worker.spec, incarnation=incarnation)
        worker.vram.clear()
        worker.work.clear()
        self._break(worker)

    def _break(self, worker: SimWorker) -> None:
        if worker.stream:
            worker.stream = 0
            worker_id = worker.spec.worker_id
            if self.machine.worker(worker_id) is not None:
                self._feed(into.WorkerDisconnected(worker_id))
            self._later(self.random.choice((50, 300, 2_000, 8_000)), lambda: self._connect(worker))

    # ---- the wire ----------------------------------------------------------------------------

    def _to_worker(self, worker_id: WorkerId, receive: Callable[[SimWorker], None]) -> None:
        worker = self.workers[worker_id]
        stream = worker.stream
        self._later(
            worker.latency_ms,
            lambda: receive(worker) if stream and stream == worker.stream else None,
        )

    def _to_scheduler(self, worker: SimWorker, event: into.Event) -> None:
        stream = worker.stream
        if worker.silent_until_ms > self.now_ms:
            delay_ms = worker.silent_until_ms - self.now_ms
        else:
            delay_ms = worker.latency_ms
        self._later(
            delay_ms, lambda: self._feed(event) if stream and stream == worker.stream else None
        )

    # ---- a worker ----------------------------------------------------------------------------

    def _connect(self, worker: SimWorker) -> None:
        if worker.stream:
            return
        worker.stream = next(self._streams)
        self._feed(
            into.WorkerHello(
                worker.spec,
                tuple(Residency(d, Tier.VRAM, size) for d, size in worker.vram.items()),
                tuple(self._report(worker, work) for work in worker.work.values()),
            )
        )
        for work in worker.work.values():
            if work.end is not None:
                self._to_scheduler(worker, work.end)
        self._later(1_000, partial(self._beat, worker, worker.stream))

    def _report(self, worker: SimWorker, work: Work) -> into.AttemptReport:
        metered_ms = self.now_ms - work.started_ms if work.started_ms else 0
        state = work.state
        if work.end is not None:
            state, metered_ms = RequestState[work.end.outcome.name], work.end.metered_ms
        return into.AttemptReport(work.attempt_id, work.job.request_id, state, metered_ms)

    def _beat(self, worker: SimWorker, stream: int) -> None:
        if stream != worker.stream:
            return
        if self.now_ms - worker.acked_ms > SETTINGS.lease_ms:
            for attempt_id in list(worker.work):
                self._stop(worker, attempt_id, by_order=False)
        worker.beats += 1
        open_work = [work for work in worker.work.values() if work.end is None]
        reports = tuple(self._report(worker, work) for work in open_work)
        beat = into.WorkerHeartbeat(worker.spec.worker_id, worker.beats, reports)
        self._to_scheduler(worker, beat)
        self._later(1_000, lambda: self._beat(worker, stream))

    def _acknowledged(self, worker: SimWorker, revoked: tuple[AttemptId, ...]) -> None:
        worker.acked_ms = self.now_ms
        for attempt_id in revoked:
            self._forget(worker, attempt_id)

    def _forget(self, worker: SimWorker, attempt_id: AttemptId) -> None:
        worker.work.pop(attempt_id, None)
        self._next(worker)

    def _assigned(self, worker: SimWorker, assign: out.SendAssign) -> None:
        if assign.attempt_id not in worker.work:
            work = Work(assign.attempt_id, assign.job, assign.evict_digests)
            worker.work[assign.attempt_id] = work
            self._next(worker)

    def _next(self, worker: SimWorker) -> None:
        """Starts the first waiting attempt if there is a place to run it."""
        open_work = [work for work in worker.work.values() if work.end is None]
        waiting = [work for work in open_work if work.state is RequestState.PLACED]
        if not waiting or len(open_work) - len(waiting) >= worker.spec.concurrency:
            return
        work = waiting[0]
        gone = [(d, worker.vram.pop(d)) for d in work.evict if d in worker.vram]
        missing = {d: s for d, s in work.job.model.sizes.items() if d not in worker.vram}
        # Room that the scheduler promised: if it is not there, the worker frees what it does not
        # need itself, as a real one does, after a restart of the scheduler forgot evictions.
        needed = {d for other in open_work for d in other.job.model.sizes}
        for digest in sorted(worker.vram):
            used = sum(worker.vram.values()) + sum(missing.values())
            if used + work.job.model.working_bytes <= worker.spec.vram_bytes:
                break
            if digest not in needed:
                gone.append((digest, worker.vram.pop(digest)))
        work.state = RequestState.LOADING
        worker_id = worker.spec.worker_id
        removed = tuple(Residency(d, Tier.VRAM, s) for d, s in gone)
        if removed:
            self._to_scheduler(worker, into.ResidencyChanged(worker_id, (), removed))
        self._to_scheduler(worker, into.AttemptLoading(worker_id, work.attempt_id))
        delay_ms = 1 + sum(missing.values()) * self.random.randrange(1, 30)
        self._later(delay_ms, lambda: self._loaded(worker, work, missing))

    def _alive(self, worker: SimWorker, work: Work) -> bool:
        return worker.work.get(work.attempt_id) is work and work.end is None

    def _loaded(self, worker: SimWorker, work: Work, missing: dict[Digest, int]) -> None:
        if not self._alive(worker, work):
            return
        worker.vram.update(missing)
        work.state, work.started_ms = RequestState.RUNNING, self.now_ms
        worker_id = worker.spec.worker_id
        added = tuple(Residency(d, Tier.VRAM, s) for d, s in missing.items())
        if added:
            self._to_scheduler(worker, into.ResidencyChanged(worker_id, added))
        self._to_scheduler(worker, into.AttemptRunning(worker_id, work.attempt_id, 5, Tier.DISK))
        self._later(self.random.randrange(50, 4_000), lambda: self._ran(worker, work))

    def _ran(self, worker: SimWorker, work: Work) -> None:
        if self._alive(worker, work):
            failed = self.random.random() < 0.05
            self._end(worker, work, Outcome.FAILED if failed else Outcome.SUCCEEDED)

    def _stop(self, worker: SimWorker, attempt_id: AttemptId, *, by_order: bool) -> None:
        work = worker.work.get(attempt_id)
        if work is None or work.end is not None:
            return
        if by_order:
            self._end(worker, work, Outcome.CANCELLED)
        else:
            self._forget(worker, attempt_id)

    def _end(self, worker: SimWorker, work: Work, outcome: Outcome) -> None:
        metered_ms = self.now_ms - work.started_ms if work.started_ms else 0
        worker.ran_ms[work.attempt_id] = metered_ms
        failure = Failure("ENGINE_FAILED", "simulated") if outcome is Outcome.FAILED else None
        work.end = into.AttemptFinished(
            worker.spec.worker_id,
            work.attempt_id,
            work.job.request_id,
            outcome,
            metered_ms,
            failure=failure,
        )
        self._to_scheduler(worker, work.end)
        if self.random.random() < 0.2:
            self._to_scheduler(worker, work.end)
        self._next(worker)
