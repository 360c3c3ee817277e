"""An attempt that is over before a frame leaves is told by its end alone."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.v1 import fleet_pb2
from quickthaw.worker import convert
from quickthaw.worker.attempts import LoadSummary, Outcome
from quickthaw.worker.commands import TellFinished, TellLoading, TellRunning
from quickthaw.worker.outbox import Outbox, State

ATTEMPTS = ("a", "b", "c")
STEPS = ("loading", "running", "finished")


def a_state(attempt_id: str, step: int, outcome: Outcome = Outcome.SUCCEEDED) -> State:
    match STEPS[step]:
        case "loading":
            return TellLoading(attempt_id)
        case "running":
            return TellRunning(attempt_id, LoadSummary(), 0)
        case _:
            return TellFinished(attempt_id, f"req_{attempt_id}", outcome, 0, 0, None)


def an_outbox() -> Outbox:
    return Outbox(100, lambda kind: None)


def told(message: fleet_pb2.WorkerMessage) -> tuple[str, str]:
    kind = message.WhichOneof("kind")
    assert kind is not None
    return getattr(message, kind).attempt_id, kind


async def all_frames(outbox: Outbox) -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    while len(outbox):
        said += [told(message) for message in (await outbox.take()).messages]
    return said


async def test_the_end_of_a_success_says_what_its_states_would_have_said() -> None:
    outbox = an_outbox()
    for step in range(3):
        outbox.tell(a_state("a", step))
    assert len(outbox) == 1
    assert await all_frames(outbox) == [("a", "finished")]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED])
async def test_how_far_one_came_that_did_not_succeed_is_told(outcome: Outcome) -> None:
    outbox = an_outbox()
    for step in range(3):
        outbox.tell(a_state("a", step, outcome))
    assert await all_frames(outbox) == [("a", step) for step in STEPS]


async def test_a_state_before_a_step_of_the_run_stays_before_it() -> None:
    outbox = an_outbox()
    outbox.tell(a_state("a", 0))
    outbox.tell(a_state("a", 1))
    outbox.put(convert.progress("a", 1, 2), "a")
    outbox.tell(a_state("a", 2))
    said = await all_frames(outbox)
    assert said == [("a", "loading"), ("a", "running"), ("a", "event"), ("a", "finished")]


async def test_what_was_taken_back_while_a_frame_gathered_is_not_sent() -> None:
    outbox = an_outbox()
    taking = asyncio.create_task(outbox.take())
    outbox.tell(a_state("a", 0))
    await asyncio.sleep(0)
    outbox.discard(["a"])
    outbox.tell(a_state("b", 0))
    assert [told(message) for message in (await taking).messages] == [("b", "loading")]


@given(st.lists(st.sampled_from([*ATTEMPTS, "take", "discard a"]), max_size=30))
def test_each_attempt_is_told_in_order_and_up_to_its_newest_state(moves: list[str]) -> None:
    async def play() -> None:
        outbox, reached, said = an_outbox(), dict.fromkeys(ATTEMPTS, 0), []
        for move in moves:
            if move == "take":
                if len(outbox):
                    said += [told(message) for message in (await outbox.take()).messages]
            elif move == "discard a":
                outbox.discard(["a"])
            elif reached[move] < len(STEPS):
                outbox.tell(a_state(move, reached[move]))
                reached[move] += 1
        said += await all_frames(outbox)
        for attempt_id in ("b", "c"):
            steps = [STEPS.index(kind) for name, kind in said if name == attempt_id]
            assert steps == sorted(set(steps))
            assert (steps[-1] if steps else -1) == reached[attempt_id] - 1
        assert len(outbox) == 0

    asyncio.run(play())
