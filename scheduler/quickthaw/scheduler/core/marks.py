"""What operators want of workers: kept while a worker is away, and while the scheduler is."""

from __future__ import annotations

from dataclasses import replace

from quickthaw.scheduler.core.commands import JournalMark
from quickthaw.scheduler.core.model import WorkerId, WorkerMark
from quickthaw.scheduler.core.state import State
from quickthaw.scheduler.core.worker import Worker


def recover(state: State, mark: WorkerMark) -> None:
    """An earlier scheduler wrote it."""
    state.marks[mark.worker_id] = mark


def note(state: State, worker: Worker) -> None:
    """Remembers the worker's switches as an operator has just set them."""
    _set(
        state,
        WorkerMark(
            worker.worker_id,
            worker.cordoned,
            worker.draining,
            worker.stop,
            worker.spec.incarnation if worker.draining else "",
        ),
    )


def apply(state: State, worker: Worker) -> None:
    """A worker that says Hello gets its switches back. A drain was of its earlier process only."""
    mark = state.marks.get(worker.worker_id)
    if mark is None:
        return
    if mark.draining and mark.incarnation != worker.spec.incarnation:
        mark = WorkerMark(mark.worker_id, mark.cordoned)
        _set(state, mark)
    worker.cordoned, worker.draining, worker.stop = mark.cordoned, mark.draining, mark.stop
    state.fleet.refresh(worker)


def leave(state: State, worker_id: WorkerId) -> None:
    """A worker that was told to stop, and did, leaves nothing behind; of one that leaves by itself
    a cordon stays, for its next process."""
    mark = state.marks.get(worker_id)
    if mark is not None and mark.draining:
        cordoned = mark.cordoned and not mark.stop
        _set(state, replace(mark, cordoned=cordoned, draining=False, stop=False, incarnation=""))


def _set(state: State, mark: WorkerMark) -> None:
    if mark == state.marks.get(mark.worker_id, WorkerMark(mark.worker_id)):
        return
    state.marks.pop(mark.worker_id, None)
    if not mark.empty:
        state.marks[mark.worker_id] = mark
    state.out.append(JournalMark(mark))
    if len(state.marks) > state.settings.worker_marks_max:
        # The oldest gives way, of a worker that is not here if there is one.
        away = (known for known in state.marks if known not in state.fleet.workers)
        oldest = next(away, None) or next(iter(state.marks))
        del state.marks[oldest]
        state.out.append(JournalMark(WorkerMark(oldest)))
