"""`python -m quickthaw.scheduler`: one scheduler process, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from quickthaw.scheduler.core_kind import CORE_KIND
from quickthaw.scheduler.scheduler import start
from quickthaw.scheduler.settings import Settings, parse_settings
from quickthaw.wire.errors import Internal, QuickthawError, SettingsInvalid
from quickthaw.wire.process import configure_logs, read_sockets_directly
from quickthaw.wire.tls_settings import TLS_SCHEME

GC_ALLOCATIONS = 20_000
"""Objects made, less those freed, before the youngest are looked through for cycles."""

SWITCH_SECONDS = 0.0005
"""After which one of our threads that waits for the interpreter gets it."""

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Prints the ready line, then serves until a signal asks it to stop. Raises Internal if it
    cannot go on."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    # A standby may wait for its store for long, and must hear a signal meanwhile.
    starting, stopped = asyncio.create_task(start(settings)), asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return
    stopped.cancel()
    scheduler = starting.result()
    scheduler.background.when_broken(stopping.set)
    secure = TLS_SCHEME if settings.tls is not None else ""
    local = f"local={scheduler.local_address} " if scheduler.local_address is not None else ""
    print(
        f"quickthaw-scheduler ready grpc={secure}{scheduler.grpc_address} {local}"
        f"metrics=http://{scheduler.metrics_address}/metrics "
        f"core={CORE_KIND}",
        flush=True,
    )
    _tune_python()
    await stopping.wait()
    logger.info("stopping")
    await scheduler.stop()
    if scheduler.background.broken:
        raise Internal("a part of the scheduler has failed, as the log says; start it again")


def _tune_python() -> None:
    """What a request leaves is freed by its count; looking for cycles among all that lives, as
    often as Python does by itself, took an eighth of the time. And the journal's thread, on which
    everybody waits, gets its turn beside a busy event loop sooner than Python would give it one."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a signal, 1 if it could not serve or go on, 2 for bad settings."""
    try:
        settings = parse_settings(sys.argv[1:] if argv is None else argv, os.environ)
        configure_logs(settings.log_level, as_json=settings.log_json)
        # It tells of every look at the schema; what goes wrong we say ourselves.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        read_sockets_directly()
        uvloop.run(serve(settings))
    except SettingsInvalid as error:
        print(f"quickthaw-scheduler: {error.message}", file=sys.stderr)
        return 2
    except QuickthawError as error:
        print(f"quickthaw-scheduler: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
