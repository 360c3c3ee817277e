"""The ports of the worker: what runs requests, and where a run's news goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from quickthaw.wire.errors import QuickthawError
from quickthaw.worker.attempts import Assignment, LoadSummary, NoRoomYet, RunResult, Stopped, Tier

Clock = Callable[[], float]
"""Seconds of a monotonic clock."""


class StopSignal(Protocol):
    """Set once, on the event loop; `is_set` may be asked from any thread."""

    def is_set(self) -> bool: ...

    async def wait(self) -> object: ...


class RunStopped(Exception):
    """A run or a load obeyed its stop signal."""


class RunSink(Protocol):
    """Takes a run's news, from any thread, and never blocks or raises."""

    def progress(self, step: int, steps: int) -> None:
        """`step` of 1 to `steps` is done."""
        ...

    def preview(
        self, step: int, image_index: int, content_type: str, data: bytes, size: tuple[int, int]
    ) -> None:
        """`data` is one encoded picture of at most PREVIEW_BYTES_MAX; `size` is width, height."""
        ...

    def log(self, level: str, text: str) -> None: ...


BatchEnd: TypeAlias = RunResult | Stopped | QuickthawError
"""Of one attempt of a batch; the error is what was wrong with it alone."""


@dataclass(frozen=True, slots=True)
class BatchMember:
    """One attempt of a batch. `on_stopped` is called, from any thread, when it obeyed its stop."""

    assignment: Assignment
    sink: RunSink
    stop: StopSignal
    on_stopped: Callable[[], None]


class Engine(Protocol):
    """Loads models and runs requests. Methods are called on the event loop and must not block it.

    `load` takes the model into use by the attempt. That lasts until `run` returns or raises, or
    until `release`, whichever comes first; after a `load` that raised there is nothing to release.
    """

    def load_at_once(self, assignment: Assignment) -> LoadSummary | None:
        """As `load`, where that needs no waiting; None, with nothing done, where it does."""
        ...

    def take_up(self, assignment: Assignment) -> LoadSummary | None:
        """As `load_at_once`, beside a load that goes on: only a model that could run now."""
        ...

    def run_at_once(self, assignment: Assignment) -> tuple[RunResult, float] | None:
        """As `run`, where that needs no waiting and has no news; None, with nothing done, where it
        does or would raise."""
        ...

    async def load(self, assignment: Assignment, stop: StopSignal) -> LoadSummary | NoRoomYet:
        """Raises RunStopped if `stop` came first, and the errors of the tree."""
        ...

    async def run(
        self, assignment: Assignment, sink: RunSink, stop: StopSignal
    ) -> tuple[RunResult, float]:
        """The result and when the run ended on the worker's clock. Raises RunStopped."""
        ...

    async def run_batch(self, members: Sequence[BatchMember]) -> tuple[list[BatchEnd], float]:
        """As `run`, for several attempts that `load` gave one snapshot and one `batch_key`: the end
        of each, in their order. Never called where no load gives a key."""
        ...

    def release(self, attempt_id: str) -> None: ...

    async def unload(self, digests: tuple[str, ...], tier: Tier) -> None:
        """Frees what of these is not in use."""
        ...
