"""Starting lanes, asking them with a time limit, and ending them."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from quickthaw.cli.bench.lanes import Answer, Failed, Order, Prepare, Ran, Run, Settings
from quickthaw.cli.bench.rows import Row
from quickthaw.cli.bench.serving import serve

START_SECONDS_MAX = 300.0
STOP_SECONDS_MAX = 5.0
SECONDS_MAX = 60.0
BYTES_PER_SECOND_MIN = 40e6
"""Slower than any disk worth measuring: whoever takes longer than this hangs."""
_LOG_LINES = 3
_PRELOADED = ["torch", "safetensors.torch", "quickthaw.cli.bench.serving"]


class LaneFailed(Exception):
    """A lane could not do what it was asked; `str()` is the reason, in one line."""


class LaneProcess:
    """One lane's process. Made running; `close` ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.limit_seconds = SECONDS_MAX + settings.subject.nbytes / BYTES_PER_SECOND_MIN
        # Forked from a process that has imported torch and started no thread and no CUDA.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._pipe: Connection[Order, Answer]
        self._pipe, theirs = context.Pipe()
        # daemon: it must not outlive a parent that ends in any orderly way.
        self._process = context.Process(target=serve, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()

    def started(self) -> None:
        """Waits until the loader is open, its own form of the model written included."""
        self._receive(START_SECONDS_MAX + self.limit_seconds)

    def prepare(self, row: Row) -> None:
        self._ask(Prepare(row.start))

    def run(self, row: Row) -> Ran:
        answer = self._ask(Run(row.start, row.verify))
        assert isinstance(answer, Ran)
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()  # it has nothing to put in order, and may be busy for long
        self._process.join(STOP_SECONDS_MAX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, order: Order) -> Answer:
        try:
            self._pipe.send(order)
        except OSError as error:
            raise LaneFailed(self._ended()) from error
        return self._receive(self.limit_seconds)

    def _receive(self, seconds: float) -> Answer:
        try:
            if not self._pipe.poll(seconds):
                self._process.kill()
                raise LaneFailed(f"took longer than {seconds:.0f} s and was ended")
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise LaneFailed(self._ended()) from error
        if isinstance(answer, Failed):
            raise LaneFailed(answer.reason)
        return answer

    def _ended(self) -> str:
        self._process.join(STOP_SECONDS_MAX)
        code = self._process.exitcode
        said = " / ".join(self._last_lines())
        return f"its process ended with status {code}" + (f"; it said last: {said}" if said else "")

    def _last_lines(self) -> list[str]:
        try:
            text = self._settings.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [line.strip() for line in text.splitlines() if line.strip()][-_LOG_LINES:]
