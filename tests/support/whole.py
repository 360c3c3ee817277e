"""A real scheduler, a worker that a test plays, and gateways before them, all in one loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from quickthaw.gateway.server import Listening
from quickthaw.gateway.server import running as gateway_running
from quickthaw.gateway.settings import GatewaySettings, Limits
from quickthaw.scheduler.clock import SystemClock
from quickthaw.scheduler.settings import Limits as SchedulerLimits
from quickthaw.v1 import catalog_pb2
from quickthaw.wire.process import Address
from support.fake_worker import FakeWorker
from support.patience import PATIENCE_SECONDS
from support.schedulers import FAST, Running, a_model, a_scheduler

QUICK_TO_STOP = Limits(drain_seconds=1)


@dataclass
class MovableClock:
    """Real time, and what a test adds to it."""

    added_ms: int = 0
    real: SystemClock = field(default_factory=SystemClock)

    def now_ms(self) -> int:
        return self.real.now_ms() + self.added_ms


@dataclass
class Whole:
    scheduler: Running
    clock: MovableClock
    data_dir: Path
    gateways: list[Listening]
    http: httpx.AsyncClient
    """To the first gateway, with the admin key, whose tenant is `default`."""

    @property
    def url(self) -> str:
        return self.gateways[0].public_url

    @property
    def key(self) -> str:
        return self.scheduler.admin.key

    def worker(self, *, automatic: bool = True) -> FakeWorker:
        return FakeWorker(self.scheduler.address, self.scheduler.worker_key, automatic=automatic)


@asynccontextmanager
async def a_whole_platform(
    data_dir: Path,
    *,
    gateways: int = 1,
    allow_private: bool = True,
    with_tls: bool = False,
    models: tuple[catalog_pb2.Model, ...] = (),
    limits: Limits = QUICK_TO_STOP,
    scheduler_limits: SchedulerLimits = FAST,
) -> AsyncIterator[Whole]:
    clock = MovableClock()
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            a_scheduler(
                data_dir, clock=clock, models=models or (a_model(),), limits=scheduler_limits
            )
        )
        listening = [
            await stack.enter_async_context(
                gateway_running(
                    GatewaySettings(
                        scheduler=Address.parse(scheduler.address),
                        http=Address("127.0.0.1", 0),
                        metrics=Address("127.0.0.1", 0),
                        key_file=data_dir / "admin.key",
                        link_secret_file=data_dir / "links.secret",
                        tls_dir=data_dir / "tls" if with_tls else None,
                        webhook_allow_private=allow_private,
                        limits=limits,
                    )
                )
            )
            for _ in range(gateways)
        ]
        headers = {"authorization": f"Key {scheduler.admin.key}"}
        http = httpx.AsyncClient(
            base_url=listening[0].public_url, headers=headers, timeout=PATIENCE_SECONDS
        )
        await stack.enter_async_context(http)
        yield Whole(scheduler, clock, data_dir, listening, http)
