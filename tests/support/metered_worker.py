"""A scripted worker that runs everything for ever, or until it must not: it keeps meter leases as a
real one does. Its meter counts its own steps and not the clock, so a machine that stands still for
a while does not run up a bill."""

from __future__ import annotations

import asyncio

from quickthaw.v1 import fleet_pb2, types_pb2
from support.fake_worker import FakeWorker

STEP_MS = 20


class MeteredWorker(FakeWorker):
    """`deaf` makes it not hear of further leases, as behind a network that lost them; what it was
    told with the assignment still counts. `runs_ms` ends a run with success after so long."""

    def __init__(
        self, address: str, key: str, worker_id: str = "worker-1", *, concurrency: int = 1
    ) -> None:
        super().__init__(address, key, worker_id, concurrency=concurrency)
        self.deaf = False
        self.runs_ms = 10**9
        self.paid_ms: dict[str, int] = {}

    def _on_assign(self, assign: fleet_pb2.Assign) -> None:
        if assign.attempt_id in self.open:
            return
        super()._on_assign(assign)
        self.paid_ms[assign.attempt_id] = assign.meter_lease_ms
        self._tasks.append(asyncio.create_task(self._run(assign)))

    def _take(self, message: fleet_pb2.SchedulerMessage) -> None:
        if message.HasField("heartbeat_ack") and not self.deaf:
            for lease in message.heartbeat_ack.meter_leases:
                self.paid_ms[lease.attempt_id] = lease.until_metered_ms
        if message.HasField("cancel"):
            self.paid_ms[message.cancel.attempt_id] = -1
        super()._take(message)

    async def _run(self, assign: fleet_pb2.Assign) -> None:
        attempt_id = assign.attempt_id
        self.loading(attempt_id)
        self.running(attempt_id)
        metered_ms = 0
        while True:
            await asyncio.sleep(STEP_MS / 1000)
            metered_ms += STEP_MS
            if attempt_id not in self.open:
                return
            self.meter(attempt_id, metered_ms)
            paid_ms = self.paid_ms[attempt_id]
            if paid_ms < 0:
                self.finish(assign, "cancelled", metered_ms=metered_ms)
                return
            if metered_ms >= self.runs_ms:
                self.finish(assign, metered_ms=metered_ms)
                return
            if 0 < paid_ms <= metered_ms:
                failure = types_pb2.Failure(reason="BUDGET_EXHAUSTED", message="the lease ended")
                self.finish(assign, "failed", metered_ms=metered_ms, failure=failure)
                return
