"""What waits to be sent: bounded, in order, and state is never lost."""

from __future__ import annotations

import asyncio
from collections import Counter

from quickthaw.v1 import fleet_pb2
from quickthaw.wire.limits import FRAME_MESSAGES_MAX, MESSAGE_BYTES_MAX, PREVIEW_BYTES_MAX
from quickthaw.worker import convert
from quickthaw.worker.outbox import Outbox


def an_outbox(events_max: int = 4) -> tuple[Outbox, Counter[str]]:
    dropped: Counter[str] = Counter()
    return Outbox(events_max, lambda kind: dropped.update([kind])), dropped


def a_preview(step: int, size_bytes: int = 10) -> fleet_pb2.WorkerMessage:
    return convert.preview("a", step, 0, "image/jpeg", b"x" * size_bytes, (8, 8))


async def test_messages_leave_in_the_order_they_came() -> None:
    outbox, _ = an_outbox()
    messages = [convert.loading("a"), convert.progress("a", 1, 2), convert.loading("b")]
    for message in messages:
        outbox.put(message)
    assert list((await outbox.take()).messages) == messages
    assert len(outbox) == 0


async def test_the_oldest_preview_gives_way_then_logs_then_progress() -> None:
    outbox, dropped = an_outbox(events_max=2)
    outbox.put(convert.progress("a", 1, 9))
    outbox.put(convert.log_line("a", "info", "hello"))
    outbox.put(a_preview(1))
    assert dropped == {"preview": 1}
    outbox.put(convert.progress("a", 2, 9))
    assert dropped == {"preview": 1, "log": 1}
    outbox.put(convert.progress("a", 3, 9))
    frame = await outbox.take()
    assert [message.event.progress.step for message in frame.messages] == [2, 3]


async def test_state_is_never_dropped_however_much_waits() -> None:
    outbox, dropped = an_outbox(events_max=1)
    for index in range(1000):
        outbox.put(convert.loading(f"a{index}"))
        outbox.put(a_preview(index))
    loading = 0
    while len(outbox):
        frame = await outbox.take()
        assert len(frame.messages) <= FRAME_MESSAGES_MAX
        loading += sum(message.HasField("loading") for message in frame.messages)
    assert loading == 1000
    assert dropped == {"preview": 999}


async def test_a_frame_stays_under_the_size_of_a_message() -> None:
    outbox, _ = an_outbox(events_max=200)
    for step in range(100):
        outbox.put(a_preview(step, PREVIEW_BYTES_MAX))
    while len(outbox):
        assert (await outbox.take()).ByteSize() < MESSAGE_BYTES_MAX


async def test_what_was_to_be_said_of_an_attempt_can_be_taken_back() -> None:
    outbox, _ = an_outbox()
    outbox.put(convert.loading("a"), "a")
    outbox.put(convert.loading("b"), "b")
    outbox.discard(["a"])
    assert [m.loading.attempt_id for m in (await outbox.take()).messages] == ["b"]


async def test_taking_waits_for_the_first_message() -> None:
    outbox, _ = an_outbox()
    taking = asyncio.create_task(outbox.take())
    outbox.put(convert.loading("a"))
    assert len((await taking).messages) == 1
