"""One child process: started on a tether, its output logged, its ready line read."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickthaw.cli.errors import PartFailed
from quickthaw.wire.process import describe_status

LOG_BYTES_MAX = 10 * 1024 * 1024
LOG_FILES_KEPT = 3
LAST_LINES = 20
LINE_BYTES_MAX = 64 * 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Command:
    """What to run and how to know it. `name` is unique in a platform: `scheduler`, `worker-0`."""

    name: str
    arguments: tuple[str, ...]
    """After `python -m`."""
    ready_word: str
    """What the ready line begins with: `quickthaw-scheduler`."""
    log: Path
    environment: Mapping[str, str]
    """Added to this process's own."""
    descriptors: tuple[int, ...] = ()
    """Open files that the child gets, under the same numbers."""


def parse_ready_line(line: str, ready_word: str) -> dict[str, str] | None:
    """`WORD ready NAME=VALUE ...` as a mapping; None for any other line."""
    words = line.split()
    if words[:2] != [ready_word, "ready"]:
        return None
    pairs = (word.partition("=") for word in words[2:])
    return {name: value for name, _, value in pairs}


class _LogFile(logging.handlers.RotatingFileHandler):
    """Loses lines while the file cannot be written, and says so once; goes on when it can."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_KEPT, encoding="utf-8", delay=True
        )
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        was_failing, self._failing = self._failing, False
        super().emit(record)
        if self._failing and not was_failing:
            logger.warning("%s cannot be written; lines are lost until it can", self.baseFilename)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's name
        self._failing = True
        # What is still buffered would fail again; the next line opens the file anew.
        with suppress(OSError, ValueError):
            self.close()


class Output:
    """What a process says: logged, its last lines kept, its ready line waited for."""

    def __init__(self, log: Path, ready_word: str) -> None:
        """Raises OSError if the log's folder cannot be made."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = _LogFile(log)
        self._ready_word = ready_word
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self.ready: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        """The values of the ready line, once it came."""

    @property
    def last_lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    async def pump(self, *streams: asyncio.StreamReader) -> None:
        """Until all of them end."""
        try:
            await asyncio.gather(*(self._pump(stream) for stream in streams))
        finally:
            self._log.close()

    async def _pump(self, stream: asyncio.StreamReader) -> None:
        """Moves what the process says into its log. Never lets the pipe fill up."""
        rest = b""
        while chunk := await stream.read(LINE_BYTES_MAX):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._take(line.decode(errors="replace"))
        if rest:
            self._take(rest.decode(errors="replace"))

    def _take(self, line: str) -> None:
        self._lines.append(line)
        self._log.handle(logging.makeLogRecord({"msg": line}))
        if not self.ready.done():
            values = parse_ready_line(line, self._ready_word)
            if values is not None:
                self.ready.set_result(values)


class Process:
    """A running child. Make it with `start`."""

    def __init__(
        self, command: Command, process: asyncio.subprocess.Process, output: Output
    ) -> None:
        self.command = command
        self._process = process
        self._output = output
        streams = (process.stdout, process.stderr)
        self._pumps = asyncio.create_task(
            self._output.pump(*(stream for stream in streams if stream is not None))
        )

    @classmethod
    async def start(cls, command: Command) -> Process:
        """Raises OSError if the process cannot be started."""
        output = Output(command.log, command.ready_word)
        tether = (sys.executable, "-m", "quickthaw.cli.tether", str(os.getpid()))
        process = await asyncio.create_subprocess_exec(
            *(*tether, sys.executable, "-m", *command.arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **command.environment},
            pass_fds=command.descriptors,
            # Its own session: a Ctrl-C at the terminal is ours to pass on, in order.
            start_new_session=True,
        )
        return cls(command, process, output)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_lines(self) -> tuple[str, ...]:
        return self._output.last_lines

    async def ready(self) -> dict[str, str]:
        """The values of the ready line. Raises PartFailed if the process ends before it."""
        gone = asyncio.create_task(self.exited())
        try:
            either: set[asyncio.Future[Any]] = {self._output.ready, gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._output.ready.done():
                return self._output.ready.result()
            raise PartFailed(
                f"the {self.command.name} {describe_status(gone.result())} before it was ready",
                self.last_lines,
            )
        finally:
            gone.cancel()

    async def exited(self) -> int:
        """Waits for the end; the exit status, -N for signal N. All that it said is logged then."""
        status = await self._process.wait()
        await asyncio.shield(self._pumps)
        return status

    async def stop(self, grace_seconds: float) -> int:
        """SIGTERM, and SIGKILL if that takes longer than `grace_seconds`; the exit status."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                return await self.exited()
        except TimeoutError:
            self.kill()
            return await self.exited()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            # Not `send_signal`, which reaps a child that has just ended, behind asyncio's back:
            # its status would be lost, and told as 255.
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
