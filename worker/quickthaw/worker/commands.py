"""What `machine.AttemptMachine` asks for. Whatever touches the world, be it a thread, the wire or a
file, is on the far side of one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quickthaw.worker.attempts import (
    Assignment,
    Failure,
    LoadSummary,
    Outcome,
    OutputFile,
    StoredArtifact,
)


@dataclass(frozen=True, slots=True)
class BeginLoad:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class TakeUp:
    """Take the model into use if it is up, beside the load that goes on; TakenUp answers."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class BeginRun:
    """`mates` run with it as one batch; the run is named for the first."""

    assignment: Assignment
    mates: tuple[Assignment, ...] = ()


@dataclass(frozen=True, slots=True)
class BeginStore:
    assignment: Assignment
    files: tuple[OutputFile, ...]


@dataclass(frozen=True, slots=True)
class StopWork:
    """Ask the attempt's load, run or store to stop. Its Returned event may still come."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class ReleaseModel:
    """The attempt was loaded and will not run: its model is no longer in use by it."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class TellLoading:
    attempt_id: str


@dataclass(frozen=True, slots=True)
class TellRunning:
    attempt_id: str
    load: LoadSummary
    load_ms: int


@dataclass(frozen=True, slots=True)
class TellFinished:
    """The end of an attempt; kept until acknowledged."""

    attempt_id: str
    request_id: str
    outcome: Outcome
    metered_ms: int
    load_ms: int
    load: LoadSummary | None
    first_step_seconds: float = 0.0
    compiled: str = ""
    output_json: str = ""
    artifacts: tuple[StoredArtifact, ...] = ()
    failure: Failure | None = None
    seed: int | None = None
    contents: tuple[bytes, ...] = ()


Command: TypeAlias = (
    BeginLoad
    | TakeUp
    | BeginRun
    | BeginStore
    | StopWork
    | ReleaseModel
    | TellLoading
    | TellRunning
    | TellFinished
)
