"""Attempts that wait for one model run as one on a real worker, and each gets what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from quickthaw.worker import batching
from support.studio import CANCELLED, FAILED, SUCCEEDED, VRAM, Studio

pytestmark = [
    # diffusers' Euler scheduler hands torch tensors to NumPy in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.parametrize("studio", [("--batch-max", "4")], indirect=True),
]

LONG = 60
"""Steps: time enough for what is assigned next to be loaded and wait."""


async def waiting(studio: Studio, *seeds: int, steps: int = 3) -> list[str]:
    """One runs for long; these wait for its end, loaded."""
    first = studio.assign("sd", num_inference_steps=LONG)
    await studio.session.next("running", first)
    ids = [studio.assign("sd", seed=seed, num_inference_steps=steps) for seed in seeds]
    for attempt_id in ids:
        await studio.session.next("loading", attempt_id)
    return ids


async def test_the_worker_says_what_it_runs_together(studio: Studio) -> None:
    hello = studio.session.hello
    assert hello.batch_max == 4
    assert set(hello.batch_families) == {"sd", "sdxl", "flux", "sd3", "flux2", "flux2_klein"}


async def test_pictures_of_a_batch_are_those_drawn_alone(studio: Studio) -> None:
    ids = await waiting(studio, 11, 12, 13)
    ends = [await studio.session.finished(attempt_id) for attempt_id in ids]
    assert {end.outcome for end in ends} == {SUCCEEDED}
    assert [end.seed for end in ends] == [11, 12, 13]
    # Their shares are equal to the millisecond, which runs of their own would hardly be.
    metered = [end.metered_ms for end in ends]
    assert max(metered) - min(metered) <= 1
    for end in ends:
        alone = await studio.draw("sd", seed=end.seed, num_inference_steps=3)
        difference = studio.pixels(end.artifacts[0]) - studio.pixels(alone.artifacts[0])
        assert np.abs(difference).max() <= 1
    for attempt_id in ids:
        steps = [m.event.progress.step for m in studio.session.seen("progress", attempt_id)]
        assert steps == [1, 2, 3]


async def test_a_member_that_is_cancelled_leaves_the_others_unharmed(studio: Studio) -> None:
    ids = await waiting(studio, 21, 22, 23, steps=LONG)
    await studio.session.next("running", ids[0])
    studio.session.cancel(ids[0])
    cancelled = await studio.session.finished(ids[0])
    assert cancelled.outcome == CANCELLED
    others = [await studio.session.finished(attempt_id) for attempt_id in ids[1:]]
    assert [end.outcome for end in others] == [SUCCEEDED, SUCCEEDED]
    assert cancelled.metered_ms < min(end.metered_ms for end in others)
    after = await studio.draw("sd", seed=21)
    assert after.outcome == SUCCEEDED


async def test_an_input_that_is_wrong_fails_alone(studio: Studio) -> None:
    first = studio.assign("sd", num_inference_steps=LONG)
    await studio.session.next("running", first)
    wrong = studio.assign("sd", prompt="red " * 100, num_inference_steps=3)
    right = studio.assign("sd", num_inference_steps=3)
    assert (await studio.session.finished(wrong)).outcome == FAILED
    assert (await studio.session.finished(right)).outcome == SUCCEEDED


async def test_what_made_room_for_a_batch_is_told_to_be_gone(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    await studio.draw("flux")
    draw_batch = batching.draw_batch

    def short_of_memory(pipe: Any, family: Any, members: Sequence[Any], linear: Any) -> Any:
        if len(members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw_batch(pipe, family, members, linear)

    monkeypatch.setattr(batching, "draw_batch", short_of_memory)
    for attempt_id in await waiting(studio, 1, 2):
        assert (await studio.session.finished(attempt_id)).outcome == SUCCEEDED
    assert studio.resident(VRAM) == set(studio.packed.components("sd").values())
