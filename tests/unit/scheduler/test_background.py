"""Work beside the calls: its failure is told, and what cannot be done without is missed at once."""

from __future__ import annotations

import asyncio
import logging

import pytest

from quickthaw.scheduler.background import Background


async def failing() -> None:
    raise ValueError("a bug")


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("needed", [True, False])
async def test_a_failure_is_logged_and_what_is_needed_breaks_the_whole(
    caplog: pytest.LogCaptureFixture, needed: bool
) -> None:
    background, broken = Background(), asyncio.Event()
    background.when_broken(broken.set)
    background.start(for_ever(), "something that goes on")
    background.start(failing(), "something", needed=needed)
    for _ in range(3):
        await asyncio.sleep(0)
    (told,) = caplog.records
    assert told.levelno == logging.CRITICAL
    assert told.getMessage() == "something has failed and does not go on"
    assert background.broken is broken.is_set() is needed
    background.stop()


async def test_being_stopped_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    background.start(for_ever(), "something", needed=True)
    await asyncio.sleep(0)
    background.stop()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not caplog.records
    assert not background.broken
