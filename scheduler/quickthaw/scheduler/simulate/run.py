"""One simulation: a trace, a fleet, a policy, what goes wrong; time jumps from event to event."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from quickthaw.scheduler.core.model import ModelSpec
from quickthaw.scheduler.simulate.outcome import Outcome
from quickthaw.scheduler.simulate.port import Assign, Policy, Refuse, Stop
from quickthaw.scheduler.simulate.traces import Arrival
from quickthaw.scheduler.simulate.world import Attempt, VirtualWorker


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at_seconds` a worker dies for `seconds`, or its disk is `slow` times slower for so long.
    A partition is a death to the scheduler: what the worker was doing is lost."""

    at_seconds: float
    worker: int
    seconds: float
    slow: float = 0.0


class _Due(NamedTuple):
    at: float
    number: int
    what: str
    worker: VirtualWorker
    attempt: Attempt | None
    seconds: float
    generation: int


class Simulation:
    """Runs once. Arrivals are in order of time."""

    def __init__(
        self,
        models: Sequence[ModelSpec],
        workers: Sequence[VirtualWorker],
        policy: Policy,
        faults: Sequence[Fault] = (),
    ) -> None:
        self._models = models
        self._workers = workers
        self._policy = policy
        self._due: list[_Due] = []
        self._numbers = itertools.count()
        self._arrivals: dict[str, Arrival] = {}
        self._outcome = Outcome()
        for fault in faults:
            worker = workers[fault.worker]
            if fault.slow:
                self._push(fault.at_seconds, "slow", worker, None, fault.slow)
                self._push(fault.at_seconds + fault.seconds, "slow", worker, None, 1.0)
            else:
                self._push(fault.at_seconds, "dies", worker)
                self._push(fault.at_seconds + fault.seconds, "lives", worker)

    def run(self, arrivals: Sequence[Arrival]) -> Outcome:
        coming = enumerate(arrivals)
        following = next(coming, None)
        now = 0.0
        while following is not None or self._arrivals:
            arrives = following[1].at_seconds if following is not None else math.inf
            due = self._due[0].at if self._due else math.inf
            timer = self._policy.next_tick()
            ticks = math.inf if timer is None else max(timer, now)
            if following is not None and arrives <= due and arrives <= ticks:
                now = arrives
                self._arrive(*following)
                following = next(coming, None)
            elif due <= ticks:
                assert due < math.inf, f"{len(self._arrivals)} requests are stuck"
                now = due
                self._happen(heapq.heappop(self._due))
            else:
                now = ticks
                self._policy.tick(now)
            self._obey(now)
        self._outcome.ended(now, self._workers)
        return self._outcome

    def _obey(self, now: float) -> None:
        """Carries out what the policy decided, and what it decides upon hearing of that."""
        while orders := self._policy.orders():
            for order in orders:
                match order:
                    case Assign():
                        order.worker.waiting.append(order.attempt)
                        self._go_on(order.worker, now)
                    case Stop():
                        self._stop(order, now)
                    case Refuse():
                        del self._arrivals[order.key]
                        self._outcome.refused()
                    case _:
                        assert_never(order)

    def _stop(self, order: Stop, now: float) -> None:
        worker = order.worker
        ran = worker.running is not None and worker.running.key == order.key
        if (attempt := worker.stop(order.key)) is not None:
            run_seconds = now - attempt.began if ran else 0.0
            self._outcome.stopped(worker.kind, run_seconds, attempt.load_seconds)
            self._policy.stopped(worker, attempt, run_seconds, now)
            self._go_on(worker, now)

    def _push(
        self,
        at: float,
        what: str,
        worker: VirtualWorker,
        attempt: Attempt | None = None,
        seconds: float = 0.0,
    ) -> None:
        number = next(self._numbers)
        due = _Due(at, number, what, worker, attempt, seconds, worker.generation)
        heapq.heappush(self._due, due)

    def _arrive(self, number: int, arrival: Arrival) -> None:
        key = f"r{number}"
        self._arrivals[key] = arrival
        self._policy.arrived(key, arrival, self._models[arrival.model], arrival.at_seconds)

    def _happen(self, due: _Due) -> None:
        worker, attempt, now = due.worker, due.attempt, due.at
        match due.what:
            case "dies":
                lost = worker.die()
                self._outcome.lost(len(lost))
                self._policy.left(worker, lost, now)
                return
            case "lives":
                worker.alive = True
                self._policy.came(worker, now)
                return
            case "slow":
                worker.disk_slow = due.seconds
                return
            case _:
                pass
        assert attempt is not None
        if due.generation != worker.generation or attempt.stopped:
            return  # the worker died meanwhile, or the attempt was told to stop
        if due.what == "loaded":
            worker.loaded(attempt)
        else:
            worker.ran(attempt)
            arrival = self._arrivals.pop(attempt.key)
            self._outcome.finished(arrival, attempt, worker.kind, due.seconds, now)
            self._policy.ended(worker, attempt, due.seconds, now)
        self._go_on(worker, now)

    def _go_on(self, worker: VirtualWorker, now: float) -> None:
        steps, change = worker.begin()
        if change.added or change.removed:
            self._policy.changed(worker, change, now)
        for what, attempt, seconds in steps:
            if what == "loaded":
                self._policy.began_load(worker, attempt, now)
            else:
                attempt.began = now
                self._policy.began_run(worker, attempt, now)
            self._push(now + seconds, what, worker, attempt, seconds)
