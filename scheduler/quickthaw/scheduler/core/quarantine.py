"""Versions of models that fail wherever they are tried, and what makes one of them suspect.

Counted is what has happened since the version last ran: worker processes that ended under its
requests, and loads that failed for a reason that lies in the model. A run clears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quickthaw.scheduler.core.commands import JournalQuarantine
from quickthaw.scheduler.core.model import (
    Failure,
    ModelId,
    ModelSpec,
    WorkerId,
)
from quickthaw.scheduler.core.sanctions import Quarantine
from quickthaw.scheduler.core.state import State, Suspect

QUARANTINED = "MODEL_QUARANTINED"
LOAD_FAULTS = frozenset(
    {
        "SNAPSHOT_CORRUPT",
        "SNAPSHOT_INVALID",
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
        "NOT_FOUND",
        "MODEL_CANNOT_FIT",
        "ENGINE_FAILED",
        "INTERNAL",
    }
)
"""Reasons of failed loads with which another worker may meet too."""
ELSEWHERE = LOAD_FAULTS | {"RESOURCE_EXHAUSTED", "STORAGE_FULL", "UNAVAILABLE"}
"""Reasons of failed loads with which another worker may not meet, so that it is worth a try."""


def recover(state: State, quarantine: Quarantine) -> None:
    """An earlier scheduler wrote it."""
    state.quarantines[quarantine.model] = quarantine


def release(state: State, model: ModelId) -> None:
    """An operator wants it tried again; nothing that was counted against it stands."""
    state.suspects.pop(model, None)
    if (known := state.quarantines.pop(model, None)) is not None:
        state.out.append(JournalQuarantine(replace(known, reason="")))


def of(state: State, model: ModelSpec) -> Quarantine | None:
    """None for another version than the one that failed."""
    known = state.quarantines.get(model.id)
    return known if known and known.snapshot_digest == model.snapshot_digest else None


def failure(quarantine: Quarantine) -> Failure:
    return Failure(QUARANTINED, told(quarantine))


def told(quarantine: Quarantine) -> str:
    return (
        f"this version of {quarantine.model} takes no requests: {quarantine.reason}; register "
        "another version, or let it run again with `quickthaw endpoint release`"
    )


def note_run(state: State, model: ModelSpec) -> None:
    """It loaded and runs."""
    if model.id in state.suspects:
        del state.suspects[model.id]


def note_kill(state: State, model: ModelSpec, worker_id: WorkerId) -> bool:
    """A worker's process ended under it. Whether it is quarantined for that now."""
    suspect = _suspect(state, model)
    suspect.kills.append(worker_id)
    if len(suspect.kills) < state.settings.quarantine_kills:
        return False
    workers = _named(suspect.kills)
    return _quarantine(
        state,
        model,
        f"{len(suspect.kills)} worker processes ended while it was loaded or run ({workers})",
    )


def note_load_failure(
    state: State, model: ModelSpec, worker_id: WorkerId, why: Failure | None
) -> bool:
    """A load of it failed. Whether it is quarantined for that now: no ready worker that could hold
    it is left on which it has not failed."""
    if why is None or why.reason not in LOAD_FAULTS:
        return False
    suspect = _suspect(state, model)
    suspect.load_failures.append(worker_id)
    if len(suspect.load_failures) < state.settings.quarantine_load_failures:
        return False
    if any(worker.worker_id not in suspect.load_failures for worker in state.fleet.able(model)):
        return False
    workers = _named(suspect.load_failures)
    count = len(suspect.load_failures)
    return _quarantine(
        state, model, f"its load failed {count} times, on every worker ({workers}): {why.message}"
    )


def _suspect(state: State, model: ModelSpec) -> Suspect:
    known = state.suspects.pop(model.id, None)
    if known is None or known.snapshot_digest != model.snapshot_digest:
        known = Suspect(model.snapshot_digest)
    state.suspects[model.id] = known
    if len(state.suspects) > state.settings.suspects_max:
        state.suspects.popitem(last=False)
    return known


def _quarantine(state: State, model: ModelSpec, reason: str) -> bool:
    found = Quarantine(model.id, model.snapshot_digest, reason, state.now_ms)
    state.quarantines[model.id] = found
    state.suspects.pop(model.id, None)
    state.out.append(JournalQuarantine(found))
    return True


def _named(workers: Sequence[WorkerId]) -> str:
    distinct = sorted(set(workers))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return ", ".join(distinct[:3]) + more
