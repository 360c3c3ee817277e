from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from quickthaw.scheduler.core.lifecycle import (
    TRANSITIONS,
    InvalidTransition,
    Life,
    RequestState,
    path,
)
from quickthaw.scheduler.core.model import RequestId

DIAGRAM = Path(__file__).parents[4] / "docs" / "lifecycle.md"
EDGES = {(start, end) for start, ends in TRANSITIONS.items() for end in ends}
ROUTES = {
    RequestState.QUEUED: (),
    RequestState.PLACED: (RequestState.PLACED,),
    RequestState.LOADING: (RequestState.PLACED, RequestState.LOADING),
    RequestState.RUNNING: (RequestState.PLACED, RequestState.LOADING, RequestState.RUNNING),
    RequestState.FAILED: (RequestState.FAILED,),
    RequestState.CANCELLED: (RequestState.CANCELLED,),
    RequestState.SUCCEEDED: (
        RequestState.PLACED,
        RequestState.LOADING,
        RequestState.RUNNING,
        RequestState.SUCCEEDED,
    ),
}


def a_life_in(state: RequestState) -> Life:
    life = Life(RequestId("req_1"), 0)
    for step in ROUTES[state]:
        life.to(step, 1, "on the way")
    return life


def test_the_documented_diagram_is_the_table() -> None:
    drawn = re.findall(r"^ {4}(\w+) --> (\w+)$", DIAGRAM.read_text(), re.MULTILINE)
    assert {(RequestState(start), RequestState(end)) for start, end in drawn} == EDGES


def test_the_documented_diagram_ends_in_the_terminal_states() -> None:
    drawn = re.findall(r"^ {4}(\w+) --> \[\*\]$", DIAGRAM.read_text(), re.MULTILINE)
    assert {RequestState(state) for state in drawn} == {s for s in RequestState if s.terminal}


@pytest.mark.parametrize(("start", "end"), list(product(RequestState, RequestState)))
def test_exactly_the_transitions_of_the_table_are_possible(
    start: RequestState, end: RequestState
) -> None:
    life = a_life_in(start)
    if (start, end) in EDGES:
        life.to(end, 2)
        assert life.state is end
        return
    before = list(life)
    with pytest.raises(InvalidTransition):
        life.to(end, 2)
    assert life.state is start
    assert list(life) == before


def test_a_rejected_transition_tells_the_whole_history() -> None:
    life = a_life_in(RequestState.SUCCEEDED)
    with pytest.raises(InvalidTransition, match="req_1: succeeded -> running after: queued at 0"):
        life.to(RequestState.RUNNING, 9)


@pytest.mark.parametrize(
    ("start", "end", "steps"),
    [
        (RequestState.PLACED, RequestState.RUNNING, (RequestState.LOADING, RequestState.RUNNING)),
        (RequestState.RUNNING, RequestState.LOADING, ()),
        (RequestState.LOADING, RequestState.LOADING, ()),
        (
            RequestState.PLACED,
            RequestState.SUCCEEDED,
            (RequestState.LOADING, RequestState.RUNNING, RequestState.SUCCEEDED),
        ),
    ],
)
def test_a_worker_ahead_of_us_is_followed_through_every_state(
    start: RequestState, end: RequestState, steps: tuple[RequestState, ...]
) -> None:
    assert path(start, end) == steps
