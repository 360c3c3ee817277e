"""The life of a request: its states, the one table of transitions, and the error for any other.

`docs/lifecycle.md` draws the table; a test holds the drawing to it. A worker's news can be lost
with its stream, so that a request seems to jump (a finish for something that is only PLACED as far
as we know): `path` gives the states in between, and every watcher sees each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from quickthaw.scheduler.core.model import RequestId

HISTORY_MAX = 32
"""Transitions remembered for each request; retries are bounded, so this is more than any has."""


class RequestState(Enum):
    QUEUED = "queued"
    PLACED = "placed"
    LOADING = "loading"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    # Members are looked up by what they are, at every step of every request.
    __hash__ = object.__hash__

    @property
    def terminal(self) -> bool:
        return not TRANSITIONS[self]

    @property
    def held(self) -> bool:
        """A worker has it: there is an open attempt under a lease."""
        return self in HELD


_ENDS = frozenset({RequestState.FAILED, RequestState.CANCELLED})

TRANSITIONS: Mapping[RequestState, frozenset[RequestState]] = {
    RequestState.QUEUED: _ENDS | {RequestState.PLACED},
    # Back to QUEUED when the attempt is lost and tries remain.
    RequestState.PLACED: _ENDS | {RequestState.LOADING, RequestState.QUEUED},
    RequestState.LOADING: _ENDS | {RequestState.RUNNING, RequestState.QUEUED},
    RequestState.RUNNING: _ENDS | {RequestState.SUCCEEDED, RequestState.QUEUED},
    RequestState.SUCCEEDED: frozenset(),
    RequestState.FAILED: frozenset(),
    RequestState.CANCELLED: frozenset(),
}

_PROGRESS = (RequestState.PLACED, RequestState.LOADING, RequestState.RUNNING)
HELD = frozenset(_PROGRESS)
_TO_SUCCESS = (*_PROGRESS, RequestState.SUCCEEDED)


class Step(NamedTuple):
    """One transition that happened."""

    at_ms: int
    state: RequestState
    detail: str


class InvalidTransition(Exception):
    """A transition that the table does not have: a fault of ours, told with the whole history."""

    def __init__(self, life: Life, state: RequestState) -> None:
        told = ", ".join(f"{step.state.value} at {step.at_ms} ({step.detail})" for step in life)
        super().__init__(f"{life.request_id}: {life.state.value} -> {state.value} after: {told}")


class Life:
    """The state of one request and how it got there."""

    __slots__ = ("_history", "request_id", "state")

    def __init__(self, request_id: RequestId, now_ms: int, detail: str = "accepted") -> None:
        self.request_id = request_id
        self.state = RequestState.QUEUED
        self._history = [Step(now_ms, self.state, detail)]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._history)

    def to(self, state: RequestState, now_ms: int, detail: str = "") -> None:
        """Raises InvalidTransition, having changed nothing."""
        if state not in TRANSITIONS[self.state]:
            raise InvalidTransition(self, state)
        self.state = state
        self._history.append(Step(now_ms, state, detail))
        if len(self._history) > HISTORY_MAX:
            del self._history[0]


def path(start: RequestState, end: RequestState) -> tuple[RequestState, ...]:
    """The states to pass through, `start` left out, to follow a worker that is ahead of us.

    Empty if the worker is behind us: its news is old. `end` is LOADING, RUNNING or SUCCEEDED.
    """
    return _PATHS[start, end]


_PATHS: Mapping[tuple[RequestState, RequestState], tuple[RequestState, ...]] = {
    (start, end): _TO_SUCCESS[_TO_SUCCESS.index(start) + 1 : _TO_SUCCESS.index(end) + 1]
    for start in _PROGRESS
    for end in _TO_SUCCESS
}
