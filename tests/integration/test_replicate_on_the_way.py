"""Replicate's webhooks before the last one: a few tries each, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from quickthaw.gateway.replicate import hooks
from support.receiver import Received, Receiver, a_receiver
from support.whole import Whole, a_whole_platform


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(hooks, "PAUSE_SECONDS", 0.01)
    with a_receiver() as receiver:
        yield receiver


async def predict(whole: Whole, receiver: Receiver, *wanted: str) -> None:
    body = {
        "input": {"prompt": "x"},
        "webhook": receiver.url,
        "webhook_events_filter": list(wanted),
    }
    made = await whole.http.post("/replicate/v1/models/test/tiny/predictions", json=body)
    assert made.status_code == 201, made.text


async def told(receiver: Receiver, count: int) -> list[Received]:
    return [await asyncio.to_thread(receiver.take) for _ in range(count)]


def events(received: list[Received]) -> list[str]:
    return [each.headers["webhook-id"].split("_")[3] for each in received]


async def test_what_a_receiver_does_not_take_is_told_again_before_anything_newer(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.statuses = [500, 200]
    async with a_whole_platform(tmp_path) as whole, whole.worker():
        await predict(whole, receiver, "start", "output")
        first, again, last = await told(receiver, 3)
    assert events([first, again, last]) == ["start", "start", "output"]
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert first.headers["webhook-id"] != last.headers["webhook-id"]
    assert first.body == again.body
    assert last.json["status"] == "succeeded"


async def test_after_a_few_tries_the_next_one_is_told(receiver: Receiver, tmp_path: Path) -> None:
    receiver.statuses = [503]
    async with a_whole_platform(tmp_path) as whole, whole.worker():
        await predict(whole, receiver, "start", "output", "completed")
        found = events(await told(receiver, 7))
    # The last one has its own tries, far apart, and may overtake those on the way.
    assert found.count("completed") == 1
    assert [each for each in found if each != "completed"] == ["start"] * 3 + ["output"] * 3
