"""Versions of models that take no requests, because they failed wherever they were tried."""

from __future__ import annotations

from dataclasses import replace

from quickthaw.scheduler.core.commands import JournalQuarantine
from quickthaw.scheduler.core.model import ModelId, ModelSpec, Quarantine
from quickthaw.scheduler.core.state import State


def recover(state: State, quarantine: Quarantine) -> None:
    """An earlier scheduler wrote it."""
    state.quarantines[quarantine.model] = quarantine


def release(state: State, model: ModelId) -> None:
    """An operator wants it tried again; nothing that was counted against it stands."""
    if (known := state.quarantines.pop(model, None)) is not None:
        state.out.append(JournalQuarantine(replace(known, reason="")))


def of(state: State, model: ModelSpec) -> Quarantine | None:
    """None for another version than the one that failed."""
    known = state.quarantines.get(model.id)
    return known if known and known.snapshot_digest == model.snapshot_digest else None
