"""The worker process: `python -m quickthaw.worker --scheduler HOST:PORT --key-file PATH ...`.

Prints one line on stdout when it can take requests:
`quickthaw-worker ready worker=ID metrics=http://HOST:PORT/metrics`. Exit codes: 0 after a drain,
1 if it cannot go on (a wrong key, a device that fails), 2 for settings that cannot work.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

import uvloop

from quickthaw.wire import errors
from quickthaw.wire.process import configure_logs, serve_metrics
from quickthaw.worker.device import choose_device
from quickthaw.worker.nvml import GpuMonitor
from quickthaw.worker.process import Worker
from quickthaw.worker.settings import WorkerSettings, from_process


async def _run(settings: WorkerSettings) -> None:
    choice = choose_device(settings)

    def say_ready() -> None:
        print(
            f"quickthaw-worker ready worker={settings.worker_id} metrics=http://{address}/metrics",
            flush=True,
        )

    worker = Worker(settings, choice, say_ready)
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


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        settings = from_process(sys.argv[1:] if arguments is None else arguments)
    except errors.SettingsInvalid as error:
        print(f"quickthaw-worker: {error.message}", file=sys.stderr)
        return 2
    configure_logs(settings.log_level, as_json=settings.log_json)
    try:
        uvloop.run(_run(settings))
    except errors.QuickthawError as error:
        print(f"quickthaw-worker: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, errors.SettingsInvalid) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
