"""Workers that die again and again are left alone for a while, longer each time.

A process died if another one says Hello under its id and it had not said Goodbye. The pause is
counted from that Hello: the worker is attached and visible, and gets nothing until it is over.
"""

from __future__ import annotations

from quickthaw.scheduler.core.model import WorkerId
from quickthaw.scheduler.core.state import Deaths, State
from quickthaw.scheduler.core.worker import Worker


def note_hello(state: State, worker: Worker) -> None:
    """A worker has said Hello; if its process is new, the one before may have died."""
    worker_id, incarnation = worker.worker_id, worker.spec.incarnation
    known = state.deaths.pop(worker_id, None)
    if known is None:
        known = Deaths(incarnation)
    state.deaths[worker_id] = known
    if len(state.deaths) > state.settings.suspects_max:
        state.deaths.popitem(last=False)
    policy = state.settings.crash
    if known.incarnation not in (incarnation, ""):
        since_ms = state.now_ms - policy.window_ms
        known.at_ms = [*(at_ms for at_ms in known.at_ms if at_ms > since_ms), state.now_ms]
        excess = len(known.at_ms) - policy.deaths
        if excess >= 0:
            pause_ms = min(policy.pause_ms << min(excess, 30), policy.pause_ms_max)
            state.backing_off[worker_id] = state.now_ms + pause_ms
    known.incarnation = incarnation
    worker.deaths = len(known.at_ms)
    _apply(state, worker)


def note_goodbye(state: State, worker_id: WorkerId) -> None:
    """It leaves on purpose."""
    if (known := state.deaths.get(worker_id)) is not None:
        known.incarnation = ""
    state.backing_off.pop(worker_id, None)


def forgive(state: State, worker: Worker) -> None:
    """An operator wants it used."""
    state.deaths.pop(worker.worker_id, None)
    state.backing_off.pop(worker.worker_id, None)
    worker.deaths = 0
    _apply(state, worker)


def expire(state: State) -> None:
    """Ends the pauses whose time has come."""
    for worker_id in [w for w, until_ms in state.backing_off.items() if until_ms <= state.now_ms]:
        del state.backing_off[worker_id]
        if (worker := state.fleet.workers.get(worker_id)) is not None:
            _apply(state, worker)


def next_ms(state: State) -> int | None:
    return min(state.backing_off.values(), default=None)


def _apply(state: State, worker: Worker) -> None:
    until_ms = state.backing_off.get(worker.worker_id, 0)
    if worker.backing_off_until_ms != until_ms:
        worker.backing_off_until_ms = until_ms
        state.fleet.refresh(worker)
