"""Everything the core remembers between two events, and the few facts that several rules share."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from quickthaw.scheduler.core.budgets import Budgets
from quickthaw.scheduler.core.commands import Command
from quickthaw.scheduler.core.decisions import Decision
from quickthaw.scheduler.core.demand import Demands
from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.fair_queue import FairQueue
from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.ledger import Ledger
from quickthaw.scheduler.core.lifecycle import Life
from quickthaw.scheduler.core.limits import Limits
from quickthaw.scheduler.core.model import (
    DEFAULT_ENDPOINT,
    AttemptRecord,
    EndpointSettings,
    Failure,
    Job,
    ModelId,
    ModelSpec,
    RequestId,
    WorkerId,
    WorkerMark,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.sanctions import Quarantine, Reservation
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.core.waiting import Rank


class Tracked:
    """One request that has not ended."""

    __slots__ = (
        "attempt",
        "attempts",
        "charged_nanodollars",
        "job",
        "killed_on",
        "life",
        "lost_on",
        "moves",
        "moving",
        "rank",
        "stopping",
    )

    def __init__(self, job: Job, life: Life, rank: Rank) -> None:
        self.job = job
        self.life = life
        self.rank = rank
        self.attempts = 0
        """The highest number that an attempt ever had."""
        self.attempt: AttemptRecord | None = None
        """The open one; exactly while the state is PLACED, LOADING or RUNNING."""
        self.charged_nanodollars = 0.0
        """What its tenant was charged in the fair order for the open attempt."""
        self.lost_on: frozenset[WorkerId] = frozenset()
        self.killed_on: tuple[WorkerId, ...] = ()
        """Workers whose process ended while it loaded or ran there; one as often as it died."""
        self.moving = False
        """Its worker has been asked to give the open attempt back, so that another takes it."""
        self.moves = 0
        """How often that was done."""
        self.stopping: Failure | None = None
        """Why it shall end, while a worker has been asked to stop it."""


class Suspect:
    """What happened to one version of a model since it last ran."""

    __slots__ = ("kills", "load_failures", "snapshot_digest")

    def __init__(self, snapshot_digest: str) -> None:
        self.snapshot_digest = snapshot_digest
        self.kills: list[WorkerId] = []
        self.load_failures: list[WorkerId] = []


class Deaths:
    """Of one worker's processes."""

    __slots__ = ("at_ms", "incarnation")

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        """The process that said Hello last, and not Goodbye."""
        self.at_ms: list[int] = []


class Supply:
    """What the slow planner remembers from one run to the next."""

    __slots__ = (
        "due_ms",
        "fewer_since_ms",
        "models_seen",
        "short_since",
        "surplus_since",
        "wanted_workers",
        "workers_seen",
    )

    def __init__(self) -> None:
        self.due_ms = 0
        self.models_seen = 0
        self.workers_seen = 0
        """Where the next run goes on, in lists longer than it looks at."""
        self.short_since: dict[ModelId, int] = {}
        self.surplus_since: dict[ModelId, int] = {}
        """Since when models have had too few copies, and more than wanted."""
        self.wanted_workers = 0
        self.fewer_since_ms: int | None = None
        """Since when fewer workers would do than `wanted_workers`."""


class Decisions:
    """Why each of the most recent requests went where it went, for operators: nothing is decided
    by it."""

    def __init__(self, requests_max: int) -> None:
        self._requests_max = requests_max
        self._decisions: OrderedDict[RequestId, list[Decision]] = OrderedDict()

    def add(self, request_id: RequestId, decision: Decision) -> None:
        """A try that found no worker gives way to the next decision for the same attempt."""
        known = self._decisions.setdefault(request_id, [])
        if known and known[-1].attempt == decision.attempt:
            known.pop()
        known.append(decision)
        if len(self._decisions) > self._requests_max:
            self._decisions.popitem(last=False)

    def of(self, request_id: RequestId) -> tuple[Decision, ...]:
        return tuple(self._decisions.get(request_id, ()))


class Timers:
    """One time for each of some requests. Ended ones are swept out once they are the most."""

    def __init__(self) -> None:
        self._at_ms: dict[RequestId, int] = {}
        self._heap: list[tuple[int, RequestId]] = []

    def set(self, request_id: RequestId, at_ms: int) -> None:
        self._at_ms[request_id] = at_ms
        heapq.heappush(self._heap, (at_ms, request_id))

    def drop(self, request_id: RequestId) -> None:
        if self._at_ms.pop(request_id, None) is None:
            return
        if len(self._heap) > 2 * len(self._at_ms) + 64:
            self._heap = [(at_ms, known) for known, at_ms in self._at_ms.items()]
            heapq.heapify(self._heap)

    def due(self, now_ms: int) -> list[RequestId]:
        """Those whose time has come, earliest first; their timers are gone."""
        found: list[RequestId] = []
        while (at_ms := self.next_ms()) is not None and at_ms <= now_ms:
            request_id = heapq.heappop(self._heap)[1]
            del self._at_ms[request_id]
            found.append(request_id)
        return found

    def next_ms(self) -> int | None:
        while self._heap and self._at_ms.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None


@dataclass(slots=True)
class State:
    """`out` collects the commands of the event that is being handled, in order."""

    settings: CoreSettings
    prices: PriceTable
    estimates: Estimates
    fleet: Fleet
    ledger: Ledger
    queue: FairQueue
    limits: Limits
    budgets: Budgets
    requests: dict[RequestId, Tracked]
    deadlines: Timers
    impatience: Timers
    overstays: Timers
    """When runs should have ended."""
    last_starts: Timers
    """When a request that waits would have to run at the latest to meet its deadline."""
    reservations: dict[RequestId, WorkerId]
    decisions: Decisions
    marks: OrderedDict[WorkerId, WorkerMark]
    endpoints: dict[ModelId, EndpointSettings]
    """Of models for which something was set; read it with `endpoint`."""
    quarantines: dict[ModelId, Quarantine]
    demands: Demands
    specs: dict[ModelId, ModelSpec]
    """Of models whose endpoints want copies whatever the traffic."""
    supply: Supply
    reserved: dict[WorkerId, Reservation]
    """Workers that serve one endpoint alone."""
    suspects: OrderedDict[ModelId, Suspect]
    """What counts against versions of models since they last ran."""
    deaths: OrderedDict[WorkerId, Deaths]
    """Of workers' processes, lately."""
    backing_off: dict[WorkerId, int]
    """Until when those workers get nothing that died too often."""
    now_ms: int
    out: list[Command]

    @classmethod
    def empty(cls, settings: CoreSettings, prices: PriceTable, estimates: Estimates) -> State:
        placement = settings.placement
        fleet = Fleet(estimates, placement.queue_ahead + placement.queue_ahead_more)
        fleet.prices = prices
        queue = FairQueue(settings.tenant_weights, settings.priority_head_start_ms)
        endpoints: dict[ModelId, EndpointSettings] = {}
        budgets = Budgets()
        return cls(
            settings=settings,
            prices=prices,
            estimates=estimates,
            fleet=fleet,
            ledger=Ledger(fleet, settings.lease_ms),
            queue=queue,
            limits=Limits(
                queue,
                endpoints,
                settings.tenant_concurrency_max,
                settings.tenant_concurrency,
                budgets,
            ),
            budgets=budgets,
            requests={},
            deadlines=Timers(),
            impatience=Timers(),
            overstays=Timers(),
            last_starts=Timers(),
            reservations={},
            decisions=Decisions(settings.decisions_max),
            marks=OrderedDict(),
            endpoints=endpoints,
            quarantines={},
            demands=Demands(settings.supply.demand_models_max),
            specs={},
            supply=Supply(),
            reserved={},
            suspects=OrderedDict(),
            deaths=OrderedDict(),
            backing_off={},
            now_ms=0,
            out=[],
        )

    def endpoint(self, model: ModelId) -> EndpointSettings:
        """How a model is served."""
        return self.endpoints.get(model, DEFAULT_ENDPOINT)
