"""Outputs' bytes that are sent along with the end of their attempt."""

from __future__ import annotations

import pytest

from quickthaw.v1 import fleet_pb2
from quickthaw.wire.limits import CONTENTS_BYTES_MAX
from quickthaw.worker.attempts import (
    Assignment,
    Failure,
    LoadSummary,
    OutputFile,
    RunResult,
    StoredArtifact,
)
from quickthaw.worker.commands import TellFinished
from quickthaw.worker.convert import assignment_from, fill_finished
from quickthaw.worker.events import Assigned, LoadReturned, RunReturned, StoreReturned
from quickthaw.worker.machine import AttemptMachine


def an_end(
    contents_bytes_max: int, *outputs: bytes, stored: Failure | None = None
) -> fleet_pb2.AttemptFinished:
    """What the worker says of a run with these outputs."""
    files = tuple(
        OutputFile(f"{index}.png", "image/png", data, 8, 8) for index, data in enumerate(outputs)
    )
    artifacts = tuple(
        StoredArtifact(f"artifacts/r/{file.name}", file.name, file.content_type, 1, "ab", 8, 8)
        for file in files
    )
    message = fleet_pb2.Assign(attempt_id="r.1", contents_bytes_max=contents_bytes_max)
    assignment: Assignment = assignment_from(message)
    machine = AttemptMachine(1, 1)
    machine.handle(Assigned(assignment, 0), 0.0)
    machine.handle(LoadReturned("r.1", LoadSummary()), 1.0)
    machine.handle(RunReturned("r.1", RunResult(files, "{}")), 2.0)
    [end] = machine.handle(StoreReturned("r.1", stored or artifacts), 3.0)
    assert isinstance(end, TellFinished)
    said = fleet_pb2.WorkerMessage()
    fill_finished(said, end)
    return said.finished


def test_outputs_travel_with_the_end_that_somebody_waits_for() -> None:
    assert an_end(6, b"one", b"two").contents == [b"one", b"two"]


@pytest.mark.parametrize("contents_bytes_max", [0, 5])
def test_all_of_them_do_or_none(contents_bytes_max: int) -> None:
    assert not an_end(contents_bytes_max, b"one", b"two").contents


def test_whatever_is_asked_for_an_end_stays_within_a_message() -> None:
    assert not an_end(1 << 31, bytes(CONTENTS_BYTES_MAX + 1)).contents
    assert an_end(1 << 31, bytes(CONTENTS_BYTES_MAX)).contents


def test_what_could_not_be_stored_is_not_sent() -> None:
    end = an_end(6, b"one", stored=Failure("STORAGE_FULL", "full", retryable=True))
    assert not end.contents
    assert end.failure.reason == "STORAGE_FULL"
