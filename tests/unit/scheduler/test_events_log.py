"""What watchers get: everything in order, or gaps that only previews and logs leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.scheduler.events_log import EventLimits, EventsLog
from quickthaw.wire import errors


def a_log(
    per_request_max: int = 8,
    total_bytes_max: int = 1 << 20,
    finished_max: int = 4,
    watchers_per_request_max: int = 2,
) -> EventsLog[str]:
    return EventsLog(
        EventLimits(per_request_max, total_bytes_max, finished_max, watchers_per_request_max)
    )


async def told(log: EventsLog[str], after_sequence: int = 0) -> list[str]:
    return [entry.payload async for entry in log.watch("r", after_sequence)]


async def test_a_watcher_that_comes_late_gets_everything_that_is_kept() -> None:
    log = a_log()
    log.begin("r")
    log.append("r", 1, "queued")
    log.append("r", 2, "progress", droppable=True)
    log.append("r", 3, "finished", final=True)
    assert await told(log) == ["queued", "progress", "finished"]
    assert await told(log, after_sequence=2) == ["finished"]
    assert await told(log, after_sequence=3) == []


async def test_a_watcher_waits_for_what_is_still_to_come() -> None:
    log = a_log()
    log.begin("r")
    watching = asyncio.create_task(told(log))
    for payload in ("queued", "placed"):
        await asyncio.sleep(0)
        log.append("r", 1, payload)
    log.append("r", 1, "finished", final=True)
    assert await watching == ["queued", "placed", "finished"]


async def test_a_slow_watcher_loses_previews_and_logs_but_no_state() -> None:
    log = a_log(per_request_max=4)
    log.begin("r")
    log.append("r", 0, "queued")
    for step in range(50):
        log.append("r", step, f"preview {step}", droppable=True)
    log.append("r", 51, "running")
    log.append("r", 52, "finished", final=True)
    entries = [entry async for entry in log.watch("r")]
    assert [each.payload for each in entries] == ["queued", "preview 49", "running", "finished"]
    sequences = [each.sequence for each in entries]
    assert sequences == sorted(set(sequences))
    assert sequences[1] == 51


async def test_a_watcher_that_is_being_sent_an_event_keeps_none_that_the_log_drops() -> None:
    log = a_log(per_request_max=4)
    log.begin("r")
    for step in range(4):
        log.append("r", step, f"preview {step}", droppable=True)
    watch = log.watch("r")
    assert (await anext(watch)).payload == "preview 0"
    for step in range(4, 10):
        log.append("r", step, f"preview {step}", droppable=True)
    log.append("r", 10, "finished", final=True)
    rest = [entry.payload async for entry in watch]
    assert rest == ["preview 7", "preview 8", "preview 9", "finished"]


async def test_a_watcher_over_the_limit_is_refused() -> None:
    log = a_log(watchers_per_request_max=1)
    log.begin("r")
    log.append("r", 1, "queued")
    first = log.watch("r")
    await anext(first)
    with pytest.raises(errors.ResourceExhausted, match="watch"):
        await anext(log.watch("r"))
    await first.aclose()
    assert (await anext(log.watch("r"))).payload == "queued"


async def test_closing_the_log_ends_every_watch_with_the_reason() -> None:
    log = a_log()
    log.begin("r")
    watching = asyncio.create_task(told(log))
    await asyncio.sleep(0)
    log.close(errors.Unavailable("going"))
    with pytest.raises(errors.Unavailable, match="going"):
        await watching


async def test_nothing_follows_the_end() -> None:
    log = a_log()
    log.begin("r")
    log.append("r", 1, "finished", final=True)
    log.append("r", 2, "late", droppable=True)
    assert await told(log) == ["finished"]


def crowded_log(requests: int) -> EventsLog[str]:
    """With twice as many bytes of states as it is to hold."""
    log = a_log(total_bytes_max=requests * 50)
    for each in range(requests):
        log.begin(str(each))
        log.append(str(each), 1, "queued", size_bytes=100)
    return log


def test_a_log_of_states_that_may_not_go_is_not_searched_for_every_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[int] = []
    drop_one = EventsLog._drop_one

    def counted(log: EventsLog[str], one: Any) -> bool:
        looked_at.append(1)
        return drop_one(log, one)

    monkeypatch.setattr(EventsLog, "_drop_one", counted)
    log = crowded_log(500)
    looked_at.clear()
    for each in range(2_000):
        log.append(str(each % 500), 2, "state", size_bytes=1)
    assert len(looked_at) <= 2 * 2_000


def test_a_crowded_log_gives_up_what_may_go_and_comes_back_within_its_bound() -> None:
    log = crowded_log(500)
    kept = 0
    for each in range(2_000):
        log.append(str(each % 500), 2, "preview", droppable=True, size_bytes=100)
        kept = max(kept, log.total_bytes)
    states_bytes = 500 * 100
    assert kept <= states_bytes + 500 * 50 // 16 + 100
    for each in range(500):
        log.append(str(each), 3, "finished", final=True, size_bytes=1)
    assert log.total_bytes <= 500 * 50


steps = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.booleans(), st.booleans(), st.integers(1, 400)),
    max_size=200,
)


@given(steps)
def test_the_bounds_hold_and_states_survive_while_their_request_lives(
    appended: list[tuple[str, bool, bool, int]],
) -> None:
    async def scenario() -> None:
        log = a_log(per_request_max=6, total_bytes_max=2_000, finished_max=2)
        states: dict[str, int] = {}
        finished: set[str] = set()
        for name in "abcdef":
            log.begin(name)
        for name, droppable, final, size_bytes in appended:
            if name in finished:
                continue
            final = final and not droppable
            log.append(name, 0, "x", droppable=droppable, final=final, size_bytes=size_bytes)
            states[name] = states.get(name, 0) + (not droppable)
            if final:
                finished.add(name)
        known_finished = [name for name in finished if log.knows(name)]
        assert len(known_finished) <= 2
        for name in set("abcdef") - finished:
            kept = log._logs[name].entries
            assert sum(not each.droppable for each in kept) == states.get(name, 0)
        kept_bytes = sum(e.size_bytes for each in log._logs.values() for e in each.entries)
        assert log.total_bytes == kept_bytes
        droppable_bytes = sum(
            e.size_bytes for each in log._logs.values() for e in each.entries if e.droppable
        )
        # At most six events pass between two looks at six logs.
        assert log.total_bytes <= 2_000 or droppable_bytes <= 6 * 400

    asyncio.run(scenario())
