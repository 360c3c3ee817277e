"""Processes forked from this one: started, signalled, reaped. For a parent without threads.

A fork takes milliseconds where a fresh interpreter needs seconds to import what a worker runs, and
the children share the parent's pages. What must not be shared is made anew in the child: signal
handlers, standard streams, session.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_EXIT_CRASHED = 1
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Streams:
    """What a child writes to; None for what the parent has."""

    stdout: int | None = None
    stderr: int | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    name: str
    status: int
    """Exit status; -N for signal N."""


class Signals:
    """SIGTERM, SIGINT and SIGCHLD as something to wait for, beside sockets, in a selector."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._terminations = 0
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._terminate)

    def fileno(self) -> int:
        return self._read.fileno()

    def terminations(self) -> int:
        """How often the process was told to end since the last call. Empties the descriptor."""
        try:
            while self._read.recv(4096):
                pass
        except BlockingIOError:
            pass
        count, self._terminations = self._terminations, 0
        return count

    def _terminate(self, _number: int, _frame: object) -> None:
        self._terminations += 1

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        self._read.close()
        self._write.close()


@dataclass(slots=True)
class Forks:
    """The children of this process, by name.

    A child dies with its parent, however that ends: with nobody to reap it and to own its slab it
    would hold its device against its successor.
    """

    _names: dict[int, str] = field(default_factory=dict[int, str])

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names.values()

    def fork(
        self, name: str, work: Callable[[float], int], streams: Streams, leave: Callable[[], None]
    ) -> int:
        """The child's pid. In the child `leave` lets go of what is the parent's, then `work` runs.

        `work` is given the time of the fork on the monotonic clock; what it returns is the exit
        status. Raises OSError if the machine allows no more processes.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        # Objects that exist now are never collected, so that a collection in a child does not
        # write into, and thereby copy, every page that it shares.
        gc.freeze()
        parent, now = os.getpid(), time.monotonic()
        with _signals_held():
            pid = os.fork()
            if not pid:
                _be_the_child(parent, streams, leave, lambda: work(now))
            self._names[pid] = name
            return pid

    def signal(self, name: str, number: int) -> None:
        """Nothing is reaped but by `reap`, so a pid is never somebody else's."""
        for pid, known in self._names.items():
            if known == name:
                os.kill(pid, number)

    def signal_all(self, number: int) -> None:
        for pid in self._names:
            os.kill(pid, number)

    def end(self, name: str) -> None:
        """Kills the child of this name, if there is one, and waits for its end."""
        for pid, known in tuple(self._names.items()):
            if known == name:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                del self._names[pid]

    def reap(self) -> Iterator[Gone]:
        """Those that have ended since the last call."""
        while self._names:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (name := self._names.pop(pid, None)) is not None:
                yield Gone(name, os.waitstatus_to_exitcode(status))


@contextmanager
def _signals_held() -> Iterator[None]:
    """A signal between fork and the child's own handlers must not run the parent's."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_the_child(
    parent: int, streams: Streams, leave: Callable[[], None], work: Callable[[], int]
) -> NoReturn:
    """Never returns: the frames above belong to the parent."""
    status = _EXIT_CRASHED
    try:
        _die_with(parent)
        leave()
        # A Ctrl-C at the terminal is the parent's to pass on, once.
        os.setsid()
        _take(streams)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        gc.enable()
        status = work()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else _EXIT_CRASHED
    except BaseException:
        traceback.print_exc()
    finally:
        _end(status)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before the kernel knew that we care.
        if os.getppid() != parent:
            os._exit(_EXIT_CRASHED)


def _take(streams: Streams) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for own, given in ((1, streams.stdout), (2, streams.stderr)):
        if given is not None:
            os.dup2(given, own)
            os.close(given)


def _end(status: int) -> NoReturn:
    """Without the parent's atexit handlers, and without waiting for threads that may hang."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads any more
            continue
    os._exit(status)
