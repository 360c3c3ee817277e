"""Performs the attempt machine's commands and feeds what came of them back as events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import assert_never

from quickthaw.v1 import fleet_pb2
from quickthaw.wire.errors import QuickthawError
from quickthaw.worker import convert
from quickthaw.worker.artifacts import ArtifactStore, described
from quickthaw.worker.attempts import (
    Assignment,
    Failure,
    LoadSummary,
    NoRoomYet,
    Outcome,
    OutputFile,
    RunResult,
    Stopped,
    StoredArtifact,
    Tier,
    sent_along,
)
from quickthaw.worker.commands import (
    BeginLoad,
    BeginRun,
    BeginStore,
    Command,
    ReleaseModel,
    StopWork,
    TakeUp,
    TellFinished,
    TellLoading,
    TellRunning,
)
from quickthaw.worker.events import (
    Event,
    LoadLasts,
    LoadReturned,
    MeterDue,
    RunReturned,
    StoreReturned,
    TakenUp,
)
from quickthaw.worker.failures import failure_from
from quickthaw.worker.machine import AttemptMachine
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.outbox import Outbox
from quickthaw.worker.ports import BatchMember, Clock, Engine, RunStopped

logger = logging.getLogger(__name__)

END_FIRST_SECONDS = 0.005
"""What is stored after its end was told leaves the processor to the end for so long."""


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class _Sink:
    """News from a run's thread, handed to the event loop."""

    def __init__(self, attempt_id: str, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self._attempt_id = attempt_id
        self._loop = loop
        self._outbox = outbox

    def progress(self, step: int, steps: int) -> None:
        self._post(convert.progress(self._attempt_id, step, steps))

    def preview(
        self, step: int, image_index: int, content_type: str, data: bytes, size: tuple[int, int]
    ) -> None:
        self._post(convert.preview(self._attempt_id, step, image_index, content_type, data, size))

    def log(self, level: str, text: str) -> None:
        self._post(convert.log_line(self._attempt_id, level, text))

    def _post(self, message: fleet_pb2.WorkerMessage) -> None:
        # Once the loop is closed nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._outbox.put, message, self._attempt_id)


class Shell:
    """Owns the attempts of this worker. Lives on the event loop; `post` is its one entry.

    `engine_for` gives the engine of a family, or raises an error of the tree.
    """

    def __init__(
        self,
        machine: AttemptMachine,
        engine_for: Callable[[str], Engine],
        store: ArtifactStore,
        outbox: Outbox,
        metrics: WorkerMetrics,
        clock: Clock = time.monotonic,
        wall_clock_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self.machine = machine
        self._engine_for = engine_for
        self._store = store
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._wall_clock_ms = wall_clock_ms
        self._pending: deque[tuple[Event, float]] = deque()
        self._busy = False
        self._following = False
        self._stops: dict[str, asyncio.Event] = {}
        self._assignments: dict[str, Assignment] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._uploads: dict[str, asyncio.Task[None]] = {}
        self._behind = 0
        self._meter_timer: asyncio.TimerHandle | None = None
        self._meter_due: float | None = None
        self.changed = asyncio.Event()
        """Set whenever an event has been handled; a waiter clears it before it looks."""

    def post(self, event: Event, happened: float | None = None) -> None:
        """`happened`: when, on the worker's clock; now if left out."""
        self._pending.append((event, self._clock() if happened is None else happened))
        if self._busy:
            return  # the loop below takes it: commands may post at once
        self._busy = True
        try:
            while self._pending:
                for command in self.machine.handle(*self._pending.popleft()):
                    self._perform(command)
        finally:
            self._busy = False
        if not self._following:
            self._following = True
            asyncio.get_running_loop().call_soon(self._follow)

    def _follow(self) -> None:
        """What follows from the events of one turn of the event loop together."""
        self._following = False
        self._metrics.attempts_running.set(self.machine.running)
        self._watch_meters()
        self.changed.set()

    def _watch_meters(self) -> None:
        due = self.machine.meter_due()
        if due == self._meter_due:
            return
        self._meter_due = due
        if self._meter_timer is not None:
            self._meter_timer.cancel()
            self._meter_timer = None
        if due is not None:
            delay = max(0.0, due - self._clock())
            loop = asyncio.get_running_loop()
            self._meter_timer = loop.call_later(delay, self._meters_are_due)

    def _meters_are_due(self) -> None:
        # Timers may be a little early.
        self._meter_due = None
        self.post(MeterDue())

    def unload(self, digests: tuple[str, ...], tier: Tier, engine: Engine) -> None:
        self._spawn(self._unload(digests, tier, engine))

    async def close(self) -> None:
        """Waits for every task; call after all attempts have ended or were told to stop."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _perform(self, command: Command) -> None:
        match command:
            case BeginLoad(assignment):
                self._begin_load(assignment)
            case TakeUp(assignment):
                self._take_up(assignment)
            case BeginRun(assignment, ()):
                self._begin_run(assignment)
            case BeginRun(assignment, mates):
                self._spawn(self._run_batch((assignment, *mates)))
            case BeginStore(assignment, ()):
                self.post(StoreReturned(assignment.attempt_id, ()))
            case BeginStore(assignment, files):
                self._begin_store(assignment, files)
            case StopWork(attempt_id):
                if (stop := self._stops.get(attempt_id)) is not None:
                    stop.set()
                if (upload := self._uploads.get(attempt_id)) is not None:
                    # Another attempt of the request may be writing the same names by now.
                    upload.cancel()
            case ReleaseModel(attempt_id):
                self._engine_for(self._assignments[attempt_id].family).release(attempt_id)
                self._drop(attempt_id)
            case TellLoading():
                self._outbox.tell(command)
            case TellRunning():
                self._metrics.observe_load(command.load)
                self._outbox.tell(command)
            case TellFinished():
                self._finished(command)
            case _:
                assert_never(command)

    def _finished(self, end: TellFinished) -> None:
        if end.outcome is not Outcome.SUCCEEDED and end.failure is not None:
            self._metrics.errors.labels(end.failure.reason).inc()
            logger.info("attempt %s %s: %s", end.attempt_id, end.outcome.value, end.failure.message)
        self._outbox.tell(end)

    def _drop(self, attempt_id: str) -> None:
        self._stops.pop(attempt_id, None)
        self._assignments.pop(attempt_id, None)

    def _begin_load(self, assignment: Assignment) -> None:
        attempt_id = assignment.attempt_id
        self._assignments[attempt_id] = assignment
        try:
            loaded = self._engine_for(assignment.family).load_at_once(assignment)
        except QuickthawError:
            loaded = None  # the task will be told the same, and answers for it
        if loaded is not None:
            self.post(LoadReturned(attempt_id, loaded, self._wall_clock_ms()))
            return
        self._stops[attempt_id] = asyncio.Event()
        self._spawn(self._load(assignment))
        self.post(LoadLasts(attempt_id))

    def _take_up(self, assignment: Assignment) -> None:
        attempt_id = assignment.attempt_id
        try:
            loaded = self._engine_for(assignment.family).take_up(assignment)
        except QuickthawError:
            loaded = None  # its own load will be told the same, and answers for it
        if loaded is not None:
            self._assignments[attempt_id] = assignment
        self.post(TakenUp(attempt_id, loaded, self._wall_clock_ms()))

    def _begin_run(self, assignment: Assignment) -> None:
        attempt_id, began = assignment.attempt_id, self._clock()
        if (done := self._engine_for(assignment.family).run_at_once(assignment)) is None:
            self._stops.setdefault(attempt_id, asyncio.Event())
            self._spawn(self._run(assignment))
            return
        result, ended = done
        self._metrics.run_seconds.observe(ended - began)
        self._drop(attempt_id)
        self.post(RunReturned(attempt_id, result, self._wall_clock_ms()), ended)

    async def _load(self, assignment: Assignment) -> None:
        attempt_id = assignment.attempt_id
        result: LoadSummary | NoRoomYet | Failure
        try:
            result = await self._engine_for(assignment.family).load(
                assignment, self._stops[attempt_id]
            )
        except RunStopped:
            # The attempt has already ended; nobody reads this.
            result = Failure("CANCELLED", "stopped while loading")
        except Exception as error:
            result = failure_from(error, attempt_id)
        if not isinstance(result, LoadSummary):
            self._drop(attempt_id)
        self.post(LoadReturned(attempt_id, result, self._wall_clock_ms()))

    async def _run(self, assignment: Assignment) -> None:
        attempt_id = assignment.attempt_id
        sink = _Sink(attempt_id, asyncio.get_running_loop(), self._outbox)
        result: RunResult | Stopped | Failure
        began, ended = self._clock(), None
        try:
            result, ended = await self._engine_for(assignment.family).run(
                assignment, sink, self._stops[attempt_id]
            )
        except RunStopped:
            result = Stopped()
        except Exception as error:
            result = failure_from(error, attempt_id)
        ended = self._clock() if ended is None else ended
        self._metrics.run_seconds.observe(ended - began)
        self._drop(attempt_id)
        self.post(RunReturned(attempt_id, result, self._wall_clock_ms()), ended)

    async def _run_batch(self, batch: Sequence[Assignment]) -> None:
        """A member that is stopped ends at once; the run is over with the last one's end."""
        run_id, loop = batch[0].attempt_id, asyncio.get_running_loop()

        def leaving(attempt_id: str) -> Callable[[], None]:
            def left() -> None:
                stopped = RunReturned(attempt_id, Stopped(), 0, run_id, over=False)
                loop.call_soon_threadsafe(self.post, stopped)

            return left

        members = [
            BatchMember(
                each,
                _Sink(each.attempt_id, loop, self._outbox),
                self._stops[each.attempt_id],
                leaving(each.attempt_id),
            )
            for each in batch
        ]
        results: list[RunResult | Stopped | Failure]
        began, ended = self._clock(), None
        try:
            ends, ended = await self._engine_for(batch[0].family).run_batch(members)
            results = [
                failure_from(end, each.attempt_id) if isinstance(end, Exception) else end
                for each, end in zip(batch, ends, strict=True)
            ]
        except Exception as error:
            results = [failure_from(error, each.attempt_id) for each in batch]
        ended = self._clock() if ended is None else ended
        self._metrics.run_seconds.observe(ended - began)
        now_ms = self._wall_clock_ms()
        for each, result in zip(batch, results, strict=True):
            self._drop(each.attempt_id)
            over = each is batch[-1]
            self.post(RunReturned(each.attempt_id, result, now_ms, run_id, over=over), ended)

    def _begin_store(self, assignment: Assignment, files: tuple[OutputFile, ...]) -> None:
        attempt_id, store = assignment.attempt_id, self._store
        if not sent_along(assignment, files) or self._behind >= store.behind_max:
            self._upload(attempt_id, self._put(assignment, files))
            return
        # Who gets the bytes with the end need not wait until there is a copy of them.
        self._behind += 1
        self._upload(attempt_id, self._put_behind(assignment, files), behind=1)
        self.post(StoreReturned(attempt_id, described(assignment.request_id, files)))

    def _upload(
        self, attempt_id: str, work: Coroutine[object, object, None], behind: int = 0
    ) -> None:
        def over(_: object) -> None:
            # Not in the work itself: cancelled before its first turn, it does nothing at all.
            self._behind -= behind
            del self._uploads[attempt_id]

        self._uploads[attempt_id] = task = self._spawn(work)
        task.add_done_callback(over)

    async def _put_behind(self, assignment: Assignment, files: tuple[OutputFile, ...]) -> None:
        try:
            await asyncio.sleep(END_FIRST_SECONDS)
            await self._store.put_behind(assignment.request_id, files)
        except Exception as error:
            self._metrics.artifacts_lost.inc(len(files))
            failed = failure_from(error, assignment.attempt_id)
            logger.warning("the files of %s are lost: %s", assignment.request_id, failed.message)

    async def _put(self, assignment: Assignment, files: tuple[OutputFile, ...]) -> None:
        result: tuple[StoredArtifact, ...] | Failure
        try:
            result = await self._store.put_all(assignment.request_id, files)
        except Exception as error:
            result = failure_from(error, assignment.attempt_id)
        self.post(StoreReturned(assignment.attempt_id, result))

    async def _unload(self, digests: tuple[str, ...], tier: Tier, engine: Engine) -> None:
        try:
            await engine.unload(digests, tier)
        except Exception as error:
            failed = failure_from(error, "unload")
            logger.warning("could not unload from %s: %s", tier.label, failed.message)
