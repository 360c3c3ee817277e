"""Counts for one scrape of the metrics, taken on the event loop that owns the core."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import Priority, Tier, WorkerState
from quickthaw.scheduler.metrics import Snapshot

SCRAPE_WAIT_SECONDS = 2.0


def take_snapshot(machine: Machine, now_ms: int) -> Snapshot:
    """Zeros are said too, so that a series does not vanish when its last request does."""
    by_priority = Counter({priority.name.lower(): 0 for priority in Priority})
    by_state = Counter({state.value: 0 for state in RequestState if not state.terminal})
    for request_id in machine.requests():
        request = machine.request(request_id)
        if request is None:
            continue
        by_state[request.state.value] += 1
        if request.state is RequestState.QUEUED:
            by_priority[request.job.priority.name.lower()] += 1
    workers = Counter({state.value: 0 for state in WorkerState})
    resident = Counter({tier.name.lower(): 0 for tier in Tier if tier is not Tier.REMOTE})
    for worker in machine.workers():
        workers[worker.state.value] += 1
        for tier, digests in worker.resident.items():
            if tier is not Tier.REMOTE:
                resident[tier.name.lower()] += sum(digests.values())
    calibration = {
        kind: (each.observations, each.under_p50, each.under_p95)
        for kind, each in machine.calibration().items()
    }
    wanted = machine.workers_wanted(now_ms)
    return Snapshot(by_priority, by_state, workers, resident, calibration, wanted)


def snapshot_reader(
    machine: Machine, clock: Clock, loop: asyncio.AbstractEventLoop
) -> Callable[[], Snapshot | None]:
    """For the thread that serves the metrics: asks the loop and waits, but not for ever."""

    def read() -> Snapshot | None:
        answer: Future[Snapshot] = Future()
        try:
            loop.call_soon_threadsafe(
                lambda: answer.set_result(take_snapshot(machine, clock.now_ms()))
            )
            return answer.result(SCRAPE_WAIT_SECONDS)
        except (RuntimeError, TimeoutError):
            # The loop has ended or is stuck; the other metrics say which.
            return None

    return read
