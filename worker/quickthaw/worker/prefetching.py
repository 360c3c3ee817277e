"""Components brought nearer ahead of need, in a thread of their own: no request waits for it.

A prefetch begins only while the worker has no attempt at all, pushes nothing out (`Loader.promote`
fails where there is no room), and is given up when an attempt for another snapshot is assigned.
The load of that attempt waits for what is being read at that moment, a bounded number of blocks,
and no longer. An attempt for the same snapshot takes over: what is under way is joined.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quickthaw.wire.errors import QuickthawError
from quickthaw.worker.attempts import Assignment, Tier
from quickthaw.worker.ports import RunStopped

if TYPE_CHECKING:
    from quickthaw.snapshot import Loader, SnapshotStore
    from quickthaw.worker.arrivals import Arrivals
    from quickthaw.worker.metrics import WorkerMetrics

logger = logging.getLogger(__name__)

WAITING_MAX = 8
"""Prefetches that wait for the one under way; more are dropped, for they are hints."""


@dataclass(frozen=True, slots=True)
class Prefetch:
    """`like` names the snapshot as an assignment does. `tier`: VRAM or PINNED."""

    like: Assignment
    digests: tuple[str, ...]
    tier: Tier


class Promoting:
    """The loader's side: one prefetch at a time, which gives way. Thread-safe."""

    def __init__(
        self,
        store: SnapshotStore,
        loader: Loader,
        arrivals: Arrivals | None,
        *,
        verify: bool,
        on_moved: Callable[[], None],
    ) -> None:
        self._store = store
        self._loader = loader
        self._arrivals = arrivals
        self._verify = verify
        self._on_moved = on_moved
        self._changed = threading.Condition()
        self._snapshot: str | None = None  # of the prefetch under way
        self._last = False  # nothing more after the component that is being moved
        self._stop = False

    def announce(self, prefetch: Prefetch) -> None:
        """It is under way from now on, though `run` may begin later: it can be stopped already."""
        with self._changed:
            self._snapshot = prefetch.like.snapshot_digest
            self._stop = self._last = False

    def run(self, prefetch: Prefetch) -> bool:
        """Whether all of what was announced is there now. Raises an error of the tree; `RunStopped`
        never."""
        from quickthaw.snapshot import Tier as StoreTier

        digest = prefetch.like.snapshot_digest
        try:
            if self._stop or self._last:
                return False
            if digest not in self._store:
                if self._arrivals is None or "://" not in prefetch.like.snapshot_uri:
                    return False  # a whole snapshot would have to be copied here first
                self._arrivals.begin(prefetch.like)
            self._loader.open(digest)
            tier = StoreTier.VRAM if prefetch.tier is Tier.VRAM else StoreTier.PINNED
            for component in prefetch.digests:
                if self._stop or self._last:
                    return False
                self._loader.promote(component, tier, verify=self._verify, on_bytes=self._on_bytes)
                self._on_moved()
            return True
        except RunStopped:
            return False
        finally:
            with self._changed:
                self._snapshot = None
                self._changed.notify_all()

    def stop(self, snapshot_digest: str = "") -> None:
        """Something else is to be done, for this snapshot. Does not wait."""
        with self._changed:
            if self._snapshot is None:
                return
            self._last = True
            self._stop = self._stop or self._snapshot != snapshot_digest

    @property
    def idle(self) -> bool:
        """Nothing is on its way."""
        with self._changed:
            return self._snapshot is None

    def give_way(self, snapshot_digest: str) -> None:
        """`stop`, and returns when nothing is on its way but what this snapshot needs as well."""
        self.stop(snapshot_digest)
        with self._changed:
            self._changed.wait_for(lambda: self._snapshot in (None, snapshot_digest))

    def _on_bytes(self, _count: int) -> None:
        if self._stop:
            raise RunStopped


class Prefetcher:
    """The event loop's side: takes hints while the worker is idle, one after the other."""

    def __init__(self, idle: Callable[[], bool], metrics: WorkerMetrics) -> None:
        self._idle = idle
        self._metrics = metrics
        for outcome in ("done", "given_up", "failed", "dropped"):
            metrics.prefetches.labels(outcome)
        self._promoting: Promoting | None = None
        self._told: Callable[[], None] = lambda: None
        self._waiting: deque[Prefetch] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetcher")
        self._task: asyncio.Task[None] | None = None

    def begin(self, promoting: Promoting, told: Callable[[], None]) -> None:
        """There is a loader now. `told` is called, in the thread, after each prefetch."""
        self._promoting, self._told = promoting, told

    def ask(self, prefetch: Prefetch) -> None:
        if self._promoting is None or not self._idle() or len(self._waiting) >= WAITING_MAX:
            self._metrics.prefetches.labels("dropped").inc()
            return
        self._waiting.append(prefetch)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(self._promoting))

    def give_way(self, snapshot_digest: str = "") -> None:
        """An attempt was assigned, for this snapshot."""
        self._waiting.clear()
        if self._promoting is not None:
            self._promoting.stop(snapshot_digest)

    async def close(self) -> None:
        """Nothing is on its way when this returns."""
        self.give_way()
        if self._task is not None:
            await asyncio.wait((self._task,))
        self._promoting = None
        self._thread.shutdown()

    async def _work(self, promoting: Promoting) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            prefetch = self._waiting.popleft()
            promoting.announce(prefetch)
            outcome = await loop.run_in_executor(self._thread, self._try, promoting, prefetch)
            self._metrics.prefetches.labels(outcome).inc()

    def _try(self, promoting: Promoting, prefetch: Prefetch) -> str:
        model = prefetch.like.model
        try:
            done = promoting.run(prefetch)
        except (QuickthawError, OSError) as error:
            logger.info("not prefetched: %s: %s", model, error)
            return "failed"
        except Exception:  # a library's, or no memory: those that wait need not suffer
            logger.exception("not prefetched: %s", model)
            return "failed"
        finally:
            self._told()
        logger.debug("prefetch of %s %s", model, "done" if done else "given up")
        return "done" if done else "given_up"
