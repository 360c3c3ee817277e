"""The one writer of the store: a thread that commits whatever is waiting, in one transaction.

Callers on the event loop append and may await the commit. The longer a commit takes, the more the
next one carries, so throughput rises with load while a lone write still costs one fsync.

Within a batch the rows are ordered by statement (see `statements.Statement`), not by arrival, so
that a batch becomes a few `executemany` calls; rows of one statement keep their order. A write is
atomic: its rows commit together or not at all, and never before those of an earlier write.

There are two kinds. A caller's new work (`offer`) fails with the store. What has already happened
(`keep`) is tried until it is durable: while the store is full or gone it stays at the head of the
queue, `faulty` is true and everything that waits for it waits.

Either kind can be awaited, or calls back (`write`), which costs a small request less than a future
and its turn of the event loop. Writes of one turn of the event loop share a commit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy.engine import Connection

from quickthaw.scheduler.store.database import Writer
from quickthaw.scheduler.store.execution import Statements
from quickthaw.scheduler.store.faults import ROW_FAULTS, store_fault
from quickthaw.scheduler.store.statements import NEWEST_ONLY, Row, Statement, Value
from quickthaw.wire import errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """`waiting_max` refuses callers' new work. What has happened cannot be refused; its bound is
    that the dispatcher stops reading from workers while `Journal.behind`."""

    batch_max: int = 512
    waiting_max: int = 8_192
    busy_writes: int = 3
    """After a commit of so many, the next one waits for company, up to `gather_seconds` or until
    `gather_writes` are there: a commit costs as much processor time as a dozen requests."""
    gather_writes: int = 16
    gather_seconds: float = 0.005
    retry_delay_seconds: float = 1.0
    backoff_first_seconds: float = 0.05
    backoff_max_seconds: float = 2.0
    stop_tries_max: int = 3
    check_seconds: float = 1.0
    """Without a write, after which is asked whether another scheduler has taken over."""


Told = Callable[[errors.QuickthawError | None], None]
"""Is told, on the event loop, that a write is durable (None), or why it never will be."""


@dataclass(slots=True)
class _Write:
    rows: Sequence[Row]
    kept: bool
    told: Told
    handed_over: Callable[[], None] | None
    error: errors.QuickthawError | None = None


CommitObserver = Callable[[float, int], None]
"""Called in the writer's thread after each commit with its seconds and its number of writes."""


class Journal:
    """Owns the writer's thread from `start` to `close`; all methods belong to the event loop."""

    def __init__(
        self,
        writer: Writer,
        statements: Statements,
        limits: JournalLimits,
        on_commit: CommitObserver | None = None,
        on_fault: Callable[[bool], None] | None = None,
        on_taken_over: Callable[[], None] | None = None,
    ) -> None:
        self._writer = writer
        self._statements = statements
        self._limits = limits
        self._on_commit = on_commit
        self._on_fault = on_fault
        self._on_taken_over = on_taken_over
        self._waiting: deque[_Write] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._waking = False
        self._faulty = False
        self._away = False
        """Found by a check, and not by a write; belongs to the writer's thread."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def faulty(self) -> bool:
        return self._faulty

    @property
    def behind(self) -> bool:
        return len(self._waiting) >= self._limits.waiting_max

    def offer(self, rows: Sequence[Row]) -> asyncio.Future[None]:
        """A caller's new work; the future ends when it is durable, or with StorageFull,
        StoreUnavailable or Internal. Raises Unavailable while the journal is behind."""
        future, told = self._future()
        self.write(rows, told, kept=False)
        return future

    def keep(self, rows: Sequence[Row]) -> asyncio.Future[None]:
        """Something that has happened. The future fails only for a row that no store would take
        (a bug of ours), or when the journal is closed while the store is gone."""
        future, told = self._future()
        self.write(rows, told, kept=True)
        return future

    def write(
        self,
        rows: Sequence[Row],
        told: Told,
        *,
        kept: bool,
        handed_over: Callable[[], None] | None = None,
    ) -> None:
        """As `keep` or `offer`. Kept writes are told in the order of the calls, but for those that
        are tried again while a later one could be written.

        `handed_over` is called before `told`, on the event loop, while the database commits: the
        interpreter has nothing to do for the write until it is durable. At most once; not at all
        where the database did not take the rows.
        """
        assert self._loop is not None, "the journal was not started"
        if not kept:
            self._check_room()
        self._waiting.append(_Write(rows, kept, told, handed_over))
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake_writer)

    def _check_room(self) -> None:
        if self._stopping:
            raise errors.Unavailable("the scheduler is shutting down; try again")
        if self.behind:
            raise errors.Unavailable(
                f"{self._limits.waiting_max} writes are waiting for the store; try again later",
                retry_delay_seconds=self._limits.retry_delay_seconds,
            )

    def _future(self) -> tuple[asyncio.Future[None], Told]:
        assert self._loop is not None, "the journal was not started"
        done: asyncio.Future[None] = self._loop.create_future()
        # A future that nobody awaits must not complain about its exception at collection.
        done.add_done_callback(_retrieve)

        def told(error: errors.QuickthawError | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(None)

        return done, told

    def _wake_writer(self) -> None:
        self._waking = False
        with self._wake:
            self._wake.notify()

    async def close(self) -> None:
        """Commits what is waiting, then ends the thread and gives up the store's lock."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._loop is not None:
            await asyncio.to_thread(self._thread.join)
        self._writer.close()

    # ---- the writer's thread -----------------------------------------------------------------

    def _run(self) -> None:
        backoff_seconds = self._limits.backoff_first_seconds
        stop_tries = count = 0
        while (batch := self._next_batch(gather=count >= self._limits.busy_writes)) != []:
            if batch is None:
                self._check()
                if self._writer.taken_over:
                    return
                continue
            count, self._away = len(batch), False
            started = time.perf_counter()
            self._commit(batch)
            if self._on_commit is not None:
                self._on_commit(time.perf_counter() - started, len(batch))
            if self._writer.taken_over:
                self._give_up(batch)
                return
            again = [write for write in batch if write.kept and _passes(write.error)]
            stop_tries += bool(again and self._stopping)
            if stop_tries > self._limits.stop_tries_max:
                logger.error("gave up %d writes; the next start finds out again", len(again))
                again = []
            self._tell([write for write in batch if write not in again] if again else batch, again)
            if not again:
                backoff_seconds = self._limits.backoff_first_seconds
                continue
            self._put_back(again)
            time.sleep(backoff_seconds)
            backoff_seconds = min(backoff_seconds * 2, self._limits.backoff_max_seconds)

    def _give_up(self, batch: list[_Write]) -> None:
        """What has happened here is the other scheduler's to find out: nobody is told an end that
        it may tell otherwise."""
        logger.critical("another scheduler has taken over the store: this one must end")
        self._stopping = True
        self._tell([write for write in batch if not write.kept], [])
        if self._on_taken_over is not None:
            self._call_soon(self._on_taken_over)

    def _check(self) -> None:
        """Nobody writes: is the store there, and still ours?"""
        try:
            self._writer.check()
        except errors.QuickthawError as error:
            if self._writer.taken_over:
                self._give_up([])
            elif not self._away:
                logger.warning("nobody writes, and the store is away: %s", error.message)
                self._away = True
                self._call_soon(partial(self._resolve, [], True))
        else:
            if self._away:
                self._away = False
                self._call_soon(partial(self._resolve, [], False))

    def _next_batch(self, *, gather: bool) -> list[_Write] | None:
        """Waits for work. Empty only when stopping with nothing left; None if it is time to look
        after the lock."""
        seconds = self._limits.check_seconds if self._writer.can_be_taken_over else None
        with self._wake:
            if gather:
                self._wake.wait_for(self._is_company, self._limits.gather_seconds)
            while not self._waiting and not self._stopping:
                if not self._wake.wait(seconds):
                    return None
            count = min(len(self._waiting), self._limits.batch_max)
            return [self._waiting.popleft() for _ in range(count)]

    def _is_company(self) -> bool:
        return self._stopping or len(self._waiting) >= self._limits.gather_writes

    def _put_back(self, again: list[_Write]) -> None:
        with self._wake:
            for write in reversed(again):
                write.error = None
                self._waiting.appendleft(write)

    def _tell(self, told: list[_Write], again: list[_Write]) -> None:
        if not self._call_soon(partial(self._resolve, told, bool(again))):
            logger.warning("the event loop ended before %d writes were told", len(told))

    def _call_soon(self, call: Callable[[], object]) -> bool:
        """On the event loop; False if that has ended."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return False
        return True

    def _resolve(self, told: list[_Write], faulty: bool) -> None:
        """On the event loop."""
        faulty = faulty or any(_passes(write.error) for write in told)
        if faulty != self._faulty:
            self._faulty = faulty
            if self._on_fault is not None:
                self._on_fault(faulty)
        for write in told:
            try:
                write.told(write.error)
            except Exception:
                # A bug of ours; what the others wait for has happened all the same.
                logger.exception("what follows a write failed")

    def _commit(self, batch: list[_Write]) -> None:
        try:
            self._transaction(batch)
        except ROW_FAULTS as error:
            # Some row is at fault: the others must not fail with it.
            if len(batch) == 1:
                self._fail(batch, error)
            else:
                for write in batch:
                    self._commit([write])
        except Exception as error:
            kept = [write for write in batch if write.kept]
            self._fail([write for write in batch if not write.kept] or kept, error)
            if 0 < len(kept) < len(batch):
                # A large new request may not fit where the small end of another still does.
                self._commit(kept)

    def _transaction(self, batch: list[_Write]) -> None:
        connection = self._writer.connection()
        try:
            with self._statements.transaction(connection):
                self._execute(connection, batch)
                self._hand_over(batch)
        except ROW_FAULTS:
            raise
        except Exception:
            # Whatever state it is in, a fresh connection is cheaper than reasoning about this one.
            self._writer.discard()
            raise

    def _hand_over(self, batch: list[_Write]) -> None:
        for write in batch:
            if write.handed_over is not None:
                self._call_soon(write.handed_over)
                write.handed_over = None

    def _execute(self, connection: Connection, batch: list[_Write]) -> None:
        by_statement: dict[Statement, list[Mapping[str, Value]]] = {}
        for write in batch:
            for row in write.rows:
                by_statement.setdefault(row.statement, []).append(row.values)
        for statement in sorted(by_statement):
            values = by_statement[statement]
            if (column := NEWEST_ONLY.get(statement)) is not None:
                values = list({row[column]: row for row in values}.values())
            self._statements.execute(connection, statement, values)

    def _fail(self, batch: list[_Write], error: Exception) -> None:
        ours = store_fault(error)
        if isinstance(ours, errors.Internal):
            logger.error("a write failed", exc_info=error)
        else:
            logger.warning("%d writes failed: %s", len(batch), ours.message)
        for write in batch:
            write.error = ours


def _passes(error: errors.QuickthawError | None) -> bool:
    """Whether the same write may succeed later."""
    return isinstance(error, errors.StorageFull | errors.StoreUnavailable)


def _retrieve(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()
