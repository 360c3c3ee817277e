"""A worker on its own: `python -m quickthaw.worker` is the parent of the process that works.

The parent imports, forks, passes signals on and keeps the slab's memory. A fault of the device can
only be cured by a new process, so the parent starts one, within limits, with the pinned tier as it
was; whatever else ends the worker ends the parent with the same status.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time

from quickthaw.wire.hosting import new_slab
from quickthaw.wire.process import describe_status
from quickthaw.wire.restarts import CrashLoop, RestartPolicy, Restarts
from quickthaw.worker.faults import EXIT_DEVICE_FAULT
from quickthaw.worker.forks import Forks, Gone, Signals, Streams
from quickthaw.worker.host import LOOK_SECONDS
from quickthaw.worker.program import Birth, Program

logger = logging.getLogger(__name__)

_NAME = "worker"
_READER = "reading ahead"
_SHELL_SIGNAL_BASE = 128


class Supervisor:
    """Keeps one worker. `run` it once, in the main thread."""

    def __init__(
        self, program: Program, arguments: tuple[str, ...], policy: RestartPolicy | None = None
    ) -> None:
        self._program = program
        self._arguments = arguments
        self._restarts = Restarts("the worker", policy or RestartPolicy())
        self._forks = Forks()
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signals, selectors.EVENT_READ)
        self._slab = new_slab("quickthaw-slab")
        self._told_to_end = False

    def run(self) -> int:
        """The status to exit with."""
        self._forks.fork(_READER, self._read_ahead, Streams(), self._let_go)
        for _part in self._program.imports():
            self._heed(0.0)
            if self._told_to_end:
                self._forks.end(_READER)
                return 0
        self._program.prepare(self._arguments)
        self._forks.end(_READER)
        while True:
            status, was_ready = self._live_once()
            if self._told_to_end and status == -signal.SIGTERM:
                return 0  # it had not come as far as to drain
            if self._told_to_end or not _curable(status):
                return _exit_status(status)
            logger.warning("the worker %s; starting it again", describe_status(status))
            if not was_ready:
                # What it left in the slab may be the reason.
                os.ftruncate(self._slab, 0)
            try:
                pause = self._restarts.pause_seconds(time.monotonic(), was_ready)
            except CrashLoop as loop:
                logger.error("%s", loop)
                return _exit_status(status)
            self._heed(pause)
            if self._told_to_end:
                return 0

    def _live_once(self) -> tuple[int, bool]:
        """Starts the worker and waits for its end: its status, and whether it had been ready."""
        ready, say_ready = os.pipe()

        def work(forked_at_seconds: float) -> int:
            def tell() -> None:
                os.write(say_ready, b".")

            return self._program.run(self._arguments, Birth(forked_at_seconds, self._slab, tell))

        self._forks.fork(_NAME, work, Streams(), self._let_go)
        os.close(say_ready)
        try:
            while True:
                more = not self._told_to_end and self._program.prepare_more()
                for child in self._heed(0.0 if more else LOOK_SECONDS):
                    if child.name == _NAME:
                        return child.status, bool(os.read(ready, 1))
        finally:
            os.close(ready)

    def _heed(self, wait_seconds: float) -> list[Gone]:
        """Passes signals on; the children that have ended. Waits at most that long for either."""
        self._selector.select(wait_seconds)
        for _ in range(self._signals.terminations()):
            self._told_to_end = True
            self._forks.signal(_NAME, signal.SIGTERM)
        return list(self._forks.reap())

    def _read_ahead(self, _forked_at_seconds: float) -> int:
        return self._program.read_ahead(self._arguments, self._slab)

    def _let_go(self) -> None:
        self._selector.close()
        self._signals.close()


def _curable(status: int) -> bool:
    """Whether a new process may do better: this one was killed, or gave its device up."""
    return status < 0 or status == EXIT_DEVICE_FAULT


def _exit_status(status: int) -> int:
    return status if status >= 0 else _SHELL_SIGNAL_BASE - status
