"""The worker host: one process that has imported everything, and forks workers on request.

`python -m quickthaw.worker.host --control FD`: FD is one end of a socket pair, on which a fleet
speaks `quickthaw.wire.hosting`. A worker is ready some tens of milliseconds after its fork, the
workers of a machine share the pages of what they imported, and the host, which touches no device,
is there to fork the next when a device's fault has ended one.

The host has one thread and no event loop, no gRPC and no CUDA: none of them survives a fork. It
ends when the fleet closes its end, after its workers; they end with it when it is killed.
"""

from __future__ import annotations

import argparse
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from quickthaw.wire.hosting import (
    Ended,
    HostGone,
    HostMessage,
    Receiver,
    Signal,
    Start,
    Started,
    encode,
    send,
)
from quickthaw.wire.process import configure_logs
from quickthaw.worker.families import NAMES
from quickthaw.worker.forks import Forks, Gone, Signals, Streams
from quickthaw.worker.prepared import WorkerProgram
from quickthaw.worker.program import Birth, Program
from quickthaw.worker.settings import LOG_LEVELS

logger = logging.getLogger(__name__)

STARTS_MAX = 1024
"""Workers that may wait for the imports; over it the fleet has lost count, and is refused."""
EXIT_CANNOT_START = 2
LOOK_SECONDS = 10.0
"""Between two looks for something more to prepare, such as a model that was added."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    start: Start
    stdout: int
    stderr: int
    slab: int


class Host:
    """Serves one fleet. `run` it once, in the main thread."""

    def __init__(self, control: socket.socket, program: Program) -> None:
        self._control = control
        self._program = program
        self._receiver = Receiver(control)
        self._forks = Forks()
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, self._hear)
        self._selector.register(self._signals, selectors.EVENT_READ, self._heed)
        self._wanted: deque[_Wanted] = deque()
        self._readers: set[str] = set()
        self._ready = False
        self._leaving = False

    def run(self) -> int:
        began = time.monotonic()
        for part in self._program.imports():
            logger.debug("imported %s after %.2f s", part, time.monotonic() - began)
            self._turn(0)
            if self._leaving:
                break
        logger.info("imported everything in %.2f s", time.monotonic() - began)
        self._ready = True
        while not (self._leaving and not len(self._forks)):
            self._fork_wanted()
            more = not self._leaving and self._program.prepare_more()
            self._turn(0 if more else LOOK_SECONDS)
        return 0

    def _turn(self, wait_seconds: float) -> None:
        for key, _events in self._selector.select(wait_seconds):
            key.data()

    # ---- what comes in -------------------------------------------------------------------------

    def _hear(self) -> None:
        try:
            for message, descriptors in self._receiver.receive():
                self._take(message, descriptors)
        except (HostGone, ConnectionError) as end:
            logger.info("leaving: %s", end)
            self._selector.unregister(self._control)
            self._leave()

    def _take(self, message: HostMessage, descriptors: tuple[int, ...]) -> None:
        match message:
            case Start() if not descriptors:
                logger.error("cannot start %s: too many open files", message.worker_id)
                self._say(Ended(message.worker_id, EXIT_CANNOT_START))
            case Start():
                wanted = _Wanted(message, *descriptors)
                if self._leaving or len(self._wanted) >= STARTS_MAX:
                    self._give_up(wanted, EXIT_CANNOT_START)
                    return
                self._wanted.append(wanted)
                if not self._ready:
                    self._read_ahead(wanted)
            case Signal():
                self._forks.signal(message.worker_id, message.number)
                for wanted in tuple(self._wanted):
                    if wanted.start.worker_id == message.worker_id:
                        self._wanted.remove(wanted)
                        self._give_up(wanted, -message.number)
            case Started() | Ended():
                raise HostGone(f"the fleet sent what only a host may say: {message}")

    def _heed(self) -> None:
        for _ in range(self._signals.terminations()):
            self._leave()
        for gone in self._forks.reap():
            self._tell_end(gone)

    def _leave(self) -> None:
        """Drains the workers; the second time they cancel what they run, as at any SIGTERM."""
        self._leaving = True
        self._forks.signal_all(signal.SIGTERM)
        while self._wanted:
            self._give_up(self._wanted.popleft(), -signal.SIGTERM)

    def _read_ahead(self, wanted: _Wanted) -> None:
        """The disk is idle while this process imports, and the worker's slab is there already."""
        arguments, slab = wanted.start.arguments, wanted.slab
        name = _reader_of(wanted.start.worker_id)
        try:
            self._forks.fork(
                name,
                lambda _: self._program.read_ahead(arguments, slab),
                Streams(wanted.stdout, wanted.stderr),
                partial(self._let_go, wanted),
            )
        except OSError as error:
            logger.warning("cannot read ahead for %s: %s", wanted.start.worker_id, error)
            return
        self._readers.add(name)

    # ---- what goes out -------------------------------------------------------------------------

    def _fork_wanted(self) -> None:
        while self._wanted:
            wanted = self._wanted.popleft()
            self._program.prepare(wanted.start.arguments)
            # What it has not completed by now the worker reads itself: two must not write.
            self._forks.end(_reader_of(wanted.start.worker_id))
            work = partial(self._work, wanted)
            try:
                pid = self._forks.fork(
                    wanted.start.worker_id,
                    work,
                    Streams(wanted.stdout, wanted.stderr),
                    partial(self._let_go, wanted),
                )
            except OSError as error:
                logger.error("cannot fork %s: %s", wanted.start.worker_id, error)
                with suppress(OSError):  # nobody may read it any more
                    os.write(wanted.stderr, f"cannot fork a worker: {error}\n".encode())
                self._give_up(wanted, EXIT_CANNOT_START)
                continue
            _close(wanted)
            self._say(Started(wanted.start.worker_id, pid))

    def _work(self, wanted: _Wanted, forked_at_seconds: float) -> int:
        birth = Birth(forked_at_seconds, wanted.slab)
        return self._program.run(wanted.start.arguments, birth)

    def _let_go(self, mine: _Wanted) -> None:
        """In the child: the host's sockets and its siblings' descriptors are not its own."""
        self._selector.close()
        self._signals.close()
        self._control.close()
        for other in self._wanted:
            if other is not mine:
                _close(other)

    def _give_up(self, wanted: _Wanted, status: int) -> None:
        _close(wanted)
        self._say(Ended(wanted.start.worker_id, status))

    def _tell_end(self, gone: Gone) -> None:
        if gone.name in self._readers:
            self._readers.discard(gone.name)
            logger.info("%s: done, status %d", gone.name, gone.status)
            return
        logger.info("%s ended with status %d", gone.name, gone.status)
        self._say(Ended(gone.name, gone.status))

    def _say(self, message: HostMessage) -> None:
        """Blocks while the fleet does not read, which nothing of a request waits for."""
        data = encode(message)
        try:
            while data:
                data = data[send(self._control, data) :]
        except OSError as error:
            # Its end is closed; the next read says so as well.
            logger.debug("the fleet does not hear %s: %s", message, error)


def _reader_of(worker_id: str) -> str:
    return f"reading ahead for {worker_id}"


def _close(wanted: _Wanted) -> None:
    for descriptor in (wanted.stdout, wanted.stderr, wanted.slab):
        os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="quickthaw-worker-host", description=__doc__)
    parser.add_argument("--control", type=int, required=True, help="descriptor of a socket")
    parser.add_argument("--families", default=",".join(NAMES), help="what workers may run")
    parser.add_argument("--log-level", default="info", help=", ".join(LOG_LEVELS))
    given = parser.parse_args(arguments)
    configure_logs(given.log_level)
    control = socket.socket(fileno=given.control)
    control.setblocking(True)
    families = tuple(name for name in given.families.split(",") if name)
    return Host(control, WorkerProgram(families)).run()


if __name__ == "__main__":
    sys.exit(main())
