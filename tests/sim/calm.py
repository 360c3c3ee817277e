"""A fleet on virtual time where nothing goes wrong and every duration is known beforehand.

The real core decides; workers load in order and beside a run, run the first that is loaded, and
take exactly as long as was estimated. So what is left to measure is the decisions themselves.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quickthaw.scheduler.core import commands as out
from quickthaw.scheduler.core import events as into
from quickthaw.scheduler.core.estimates import LoadLine, LoadLines
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import (
    AttemptId,
    Digest,
    Estimate,
    Job,
    ModelId,
    Outcome,
    RequestId,
    Residency,
    Tier,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.quantiles import Calibration
from quickthaw.scheduler.core.settings import CoreSettings

BYTES_PER_SECOND = 10.0
"""Of every load: sizes are small numbers here."""
_LINE = LoadLine(0.0, 1.0 / BYTES_PER_SECOND)


def load_seconds(size_bytes: int) -> float:
    return size_bytes / BYTES_PER_SECOND


class Known:
    """Estimates that come true: a unit of work takes as many seconds as the GPU type says."""

    def __init__(self, unit_seconds: Mapping[str, float]) -> None:
        self._unit_seconds = unit_seconds

    def load_lines(self, worker_id: WorkerId) -> LoadLines:
        return (_LINE, _LINE, _LINE)

    def fastest_line(self, tier: Tier) -> LoadLine:
        return _LINE

    def load_seconds(self, worker_id: WorkerId, tier: Tier, size_bytes: int) -> Estimate:
        return Estimate(load_seconds(size_bytes), load_seconds(size_bytes), 100)

    def run_seconds(self, model: ModelId, gpu_type: str, work_units: float) -> Estimate:
        seconds = self._unit_seconds.get(gpu_type, 1.0) * work_units
        return Estimate(seconds, seconds, 100)

    def worker_attached(self, spec: WorkerSpec) -> None: ...

    def loaded(self, worker_id: WorkerId, tier: Tier, expected: float, actual: float) -> None: ...

    def ran(self, model: ModelId, gpu_type: str, work_units: float, seconds: float) -> None: ...

    def calibration(self) -> Mapping[str, Calibration]:
        return {}


@dataclass(slots=True)
class CalmWorker:
    spec: WorkerSpec
    vram: dict[Digest, int] = field(default_factory=dict)
    loads_until_ms: int = 0
    runs_until_ms: int = 0
    up_ms: dict[Digest, int] = field(default_factory=dict)
    """When a component is there that was on its way once."""
    waiting: list[tuple[int, AttemptId, Done]] = field(default_factory=list)
    """When its model is up, in the order of assignment."""


@dataclass(slots=True)
class Done:
    """What became of one request. Times are of the virtual clock."""

    job: Job
    worker_id: WorkerId
    placed_ms: int
    load_ms: int
    started_ms: int
    run_ms: int

    @property
    def ended_ms(self) -> int:
        return self.started_ms + self.run_ms


@dataclass(frozen=True, slots=True)
class Turn:
    """Something may begin to run."""

    worker: CalmWorker


class Calm:
    """`watch` is called after every event, with the time."""

    def __init__(
        self,
        settings: CoreSettings,
        workers: list[WorkerSpec],
        unit_seconds: Mapping[str, float],
        prices: PriceTable,
        holding: Mapping[Digest, int],
        watch: Callable[[int], None] = lambda now_ms: None,
    ) -> None:
        self.unit_seconds = unit_seconds
        self.machine = Machine(settings, prices, Known(unit_seconds))
        self.workers = {spec.worker_id: CalmWorker(spec, dict(holding)) for spec in workers}
        self.now_ms = 1_000
        self.done: dict[RequestId, Done] = {}
        self.watch = watch
        self._order = itertools.count()
        self._agenda: list[tuple[int, int, into.Event | CalmWorker | Turn]] = []
        for worker in self.workers.values():
            residency = tuple(Residency(d, Tier.VRAM, size) for d, size in worker.vram.items())
            self._later(self.now_ms, into.WorkerHello(worker.spec, residency))
            self._later(self.now_ms, worker)

    def submit(self, job: Job) -> None:
        self._later(job.submitted_ms, into.RequestJournalled(job))

    def run(self) -> None:
        """Until every request that was submitted has ended."""
        wanted = sum(isinstance(each[2], into.RequestJournalled) for each in self._agenda)
        ended = 0
        while ended < wanted:
            self.now_ms, _, what = heapq.heappop(self._agenda)
            assert self.now_ms < 10_000_000, "not done after hours"
            if isinstance(what, CalmWorker):
                # A heartbeat keeps the lease, and time is told to the core.
                self._later(self.now_ms + 1_000, what)
                self._feed(into.WorkerHeartbeat(what.spec.worker_id, 1, self._reports(what)))
                self._feed(into.Tick())
            elif isinstance(what, Turn):
                self._run_next(what.worker)
            else:
                ended += isinstance(what, into.AttemptFinished)
                self._feed(what)
            for worker in self.workers.values():
                assert sum(worker.vram.values()) <= worker.spec.vram_bytes, "no room"

    def _later(self, at_ms: int, what: into.Event | CalmWorker | Turn) -> None:
        heapq.heappush(self._agenda, (at_ms, next(self._order), what))

    def _feed(self, event: into.Event) -> None:
        if isinstance(event, into.ResidencyChanged):
            vram = self.workers[event.worker_id].vram
            for digest, _tier, _size in event.removed:
                vram.pop(digest, None)
            vram.update({digest: size for digest, _tier, size in event.added})
        for command in self.machine.handle(event, self.now_ms):
            if isinstance(command, out.SendAssign):
                self._assigned(command)
        self.watch(self.now_ms)

    def _reports(self, worker: CalmWorker) -> tuple[into.AttemptReport, ...]:
        known = self.machine.worker(worker.spec.worker_id)
        assert known is not None
        reports = []
        for attempt_id in known.held:
            request_id = self.machine.owner(worker.spec.worker_id, attempt_id)
            assert request_id is not None
            view = self.machine.request(request_id)
            assert view is not None
            reports.append(into.AttemptReport(attempt_id, request_id, view.state))
        return tuple(reports)

    def _assigned(self, assign: out.SendAssign) -> None:
        """The load is known now; when it runs depends on who comes meanwhile."""
        job, worker = assign.job, self.workers[assign.worker_id]
        worker_id = assign.worker_id
        known = self.machine.worker(worker_id)
        assert known is not None
        coming = dict(worker.vram)
        for other in known.held.values():
            if other is not known.held[assign.attempt_id]:
                coming |= other.model.sizes
        missing = {d: s for d, s in job.model.sizes.items() if d not in coming}
        up_ms = max([worker.up_ms.get(digest, 0) for digest in job.model.sizes] + [self.now_ms])
        load_ms = round(1_000 * load_seconds(sum(missing.values())))
        run_ms = round(1_000 * self.unit_seconds[worker.spec.gpu_type] * job.work_units)
        done = Done(job, worker_id, self.now_ms, load_ms, 0, run_ms)
        self.done[job.request_id] = done
        removed = tuple(Residency(d, Tier.VRAM, 0) for d in assign.evict_digests)
        self._later(self.now_ms, into.ResidencyChanged(worker_id, (), removed))
        if missing:
            begins_ms = max(self.now_ms, worker.loads_until_ms)
            up_ms = worker.loads_until_ms = begins_ms + load_ms
            worker.up_ms |= dict.fromkeys(missing, up_ms)
            added = tuple(Residency(d, Tier.VRAM, s) for d, s in missing.items())
            self._later(begins_ms, into.AttemptLoading(worker_id, assign.attempt_id))
            self._later(up_ms, into.ResidencyChanged(worker_id, added))
        worker.waiting.append((up_ms, assign.attempt_id, done))
        self._later(up_ms, Turn(worker))

    def _run_next(self, worker: CalmWorker) -> None:
        up = [each for each in worker.waiting if each[0] <= self.now_ms]
        if not up or worker.runs_until_ms > self.now_ms:
            return
        worker.waiting.remove(up[0])
        _, attempt_id, done = up[0]
        done.started_ms, worker.runs_until_ms = self.now_ms, self.now_ms + done.run_ms
        worker_id, request_id = worker.spec.worker_id, done.job.request_id
        tier = Tier.REMOTE if done.load_ms else Tier.VRAM
        self._feed(into.AttemptRunning(worker_id, attempt_id, done.load_ms, tier))
        finished = into.AttemptFinished(
            worker_id, attempt_id, request_id, Outcome.SUCCEEDED, done.run_ms
        )
        self._later(done.ended_ms, finished)
        self._later(done.ended_ms, Turn(worker))
