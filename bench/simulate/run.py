"""One simulation: a trace, a fleet, a policy, what goes wrong; time jumps from event to event."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.simulate.outcome import Outcome
from bench.simulate.policies import Policy
from bench.simulate.traces import Arrival
from bench.simulate.world import Attempt, VirtualWorker

from quickthaw.scheduler.core.model import ModelSpec


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
            arrives = following[1].at_seconds if following is not None else float("inf")
            due = self._due[0].at if self._due else float("inf")
            timer = self._policy.next_tick()
            ticks = float("inf") if timer is None else max(timer, now)
            if arrives <= due and arrives <= ticks:
                assert following is not None
                now = arrives
                self._arrive(*following)
                following = next(coming, None)
            elif due <= ticks:
                assert due < float("inf"), f"{len(self._arrivals)} requests are stuck"
                now = due
                self._happen(heapq.heappop(self._due))
            else:
                now = ticks
                self._policy.tick(now)
            for worker, attempt in self._policy.assignments():
                worker.waiting.append(attempt)
                self._go_on(worker, now)
        self._outcome.ended(now, self._workers)
        return self._outcome

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
        if due.generation != worker.generation:
            return  # it died meanwhile
        assert attempt is not None
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
                self._policy.began_run(worker, attempt, now)
            self._push(now + seconds, what, worker, attempt, seconds)
