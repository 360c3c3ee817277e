"""One worker's life in its own process: from its settings to the end of its drain."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import uvloop

from quickthaw.wire.process import configure_logs, serve_metrics
from quickthaw.worker.device import choose_device
from quickthaw.worker.nvml import GpuMonitor
from quickthaw.worker.process import Worker
from quickthaw.worker.program import Birth
from quickthaw.worker.settings import WorkerSettings

if TYPE_CHECKING:
    from quickthaw.snapshot.prepared import Prepared


def live(settings: WorkerSettings, birth: Birth, prepared: Prepared | None) -> None:
    """Returns after a drain. Raises an error of the tree if it cannot go on.

    `prepared`: what the parent has made ready of the store that the settings name.
    """
    configure_logs(settings.log_level, as_json=settings.log_json)
    uvloop.run(_run(settings, birth, prepared))


async def _run(settings: WorkerSettings, birth: Birth, prepared: Prepared | None) -> None:
    choice = choose_device(settings)

    def say_ready() -> None:
        start_ms = (time.monotonic() - birth.forked_at_seconds) * 1000
        print(
            f"quickthaw-worker ready worker={settings.worker_id} "
            f"metrics=http://{address}/metrics start_ms={start_ms:.0f}",
            flush=True,
        )
        birth.on_ready()

    worker = Worker(settings, choice, say_ready, slab_file=birth.slab, prepared=prepared)
    server, address = serve_metrics(worker.metrics.registry, settings.metrics)
    monitor = GpuMonitor(choice.gpu, worker.metrics.registry) if choice.gpu else None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.terminate)
    try:
        await worker.run()
    finally:
        if monitor is not None:
            monitor.close()
        server.shutdown()
        server.server_close()
