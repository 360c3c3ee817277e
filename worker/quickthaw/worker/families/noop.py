"""A family that needs no model: it waits and answers with its input.

It measures what the platform itself costs: placement, the journal, the stream, the ledger. Input:
`{"run_ms": 0}`, a JSON object with whatever else besides; output: the input. There is no snapshot,
no artifact and no seed, and cancelling works at any moment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from quickthaw.wire.errors import FieldViolation, InvalidInput
from quickthaw.worker.attempts import Assignment, LoadSummary, RunResult, Tier
from quickthaw.worker.ports import (
    BatchEnd,
    BatchMember,
    Clock,
    RunSink,
    RunStopped,
    StopSignal,
)

RUN_MS_MAX = 3_600_000

_NOTHING_TO_LOAD = LoadSummary()


class NoopEngine:
    """Runs the family `noop` on the event loop, without a thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def load_at_once(self, assignment: Assignment) -> LoadSummary | None:
        return _NOTHING_TO_LOAD

    def take_up(self, assignment: Assignment) -> LoadSummary | None:
        return _NOTHING_TO_LOAD

    def run_at_once(self, assignment: Assignment) -> tuple[RunResult, float] | None:
        """A run without duration; it has no step to tell of either."""
        try:
            run_ms = _run_ms(assignment.input_json)
        except InvalidInput:
            return None
        return None if run_ms else (_echo(assignment), self._clock())

    async def load(self, assignment: Assignment, stop: StopSignal) -> LoadSummary:
        return _NOTHING_TO_LOAD

    async def run(
        self, assignment: Assignment, sink: RunSink, stop: StopSignal
    ) -> tuple[RunResult, float]:
        run_ms = _run_ms(assignment.input_json)
        if run_ms:
            try:
                async with asyncio.timeout(run_ms / 1000):
                    await stop.wait()
            except TimeoutError:
                pass
            else:
                raise RunStopped
        if stop.is_set():
            raise RunStopped
        sink.progress(1, 1)
        await asyncio.sleep(0)  # news come from any thread, so they take a turn to be told
        return _echo(assignment), self._clock()

    async def run_batch(self, members: Sequence[BatchMember]) -> tuple[list[BatchEnd], float]:
        raise AssertionError("loads of this family give no batch key")

    def release(self, attempt_id: str) -> None:
        """There is no model to let go of."""

    async def unload(self, digests: tuple[str, ...], tier: Tier) -> None:
        """There is nothing to free."""


def _echo(assignment: Assignment) -> RunResult:
    return RunResult((), assignment.input_json or "{}")


def _run_ms(input_json: str) -> float:
    try:
        given = json.loads(input_json or "{}")
    except ValueError as error:
        raise InvalidInput(f"input is not JSON: {error}") from error
    run_ms = given.get("run_ms", 0) if isinstance(given, dict) else None
    if isinstance(run_ms, bool) or not isinstance(run_ms, int | float):
        raise _wrong(f"is {run_ms!r}; it must be a number of milliseconds")
    if not 0 <= run_ms <= RUN_MS_MAX:
        raise _wrong(f"is {run_ms!r}; it must lie between 0 and {RUN_MS_MAX}")
    return float(run_ms)


def _wrong(description: str) -> InvalidInput:
    return InvalidInput(
        f"input.run_ms {description}", violations=(FieldViolation("input.run_ms", description),)
    )
