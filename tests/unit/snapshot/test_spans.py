"""The order of a load's reads: every byte once, in load order, and never too many at once."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.snapshot.spans import Lane, Span, Spans

BLOCK = 4


@dataclass(frozen=True)
class Sizes:
    """What a lane is made of."""

    total: int
    blocks: int
    shrinks: bool
    readers: int

    def lane(self) -> Lane:
        span = self.blocks * BLOCK
        return Lane(self.total, span, BLOCK if self.shrinks else span, self.readers)


lanes = st.lists(
    st.builds(
        Sizes,
        total=st.integers(0, 200),
        blocks=st.integers(1, 8),
        shrinks=st.booleans(),
        readers=st.integers(1, 5),
    ),
    max_size=5,
)


@given(lanes, st.integers(1, 8), st.integers(1, 120), st.randoms(use_true_random=False))
def test_every_byte_is_read_once_in_order_and_within_all_bounds(
    sizes: list[Sizes], readers: int, in_flight: int, chance: random.Random
) -> None:
    spans = Spans([each.lane() for each in sizes], readers, in_flight)
    read = [0] * len(sizes)
    under_way: list[Span] = []

    def give_one_back() -> None:
        spans.give_back(under_way.pop(chance.randrange(len(under_way))))

    while sum(read) < sum(each.total for each in sizes):
        # The last reader is never kept waiting, so a single thread can play all of them.
        while len(under_way) >= spans.readers_wanted or not _one_may_go(
            sizes, read, under_way, in_flight, spans
        ):
            give_one_back()
        span = spans.take()
        assert span is not None
        assert span.start == read[span.number], "each component from its beginning on"
        assert span.nbytes <= sizes[span.number].blocks * BLOCK
        whole = span.start + span.nbytes == sizes[span.number].total
        assert whole or span.nbytes % BLOCK == 0, "only the last span of a component is short"
        read[span.number] += span.nbytes
        under_way.append(span)
        assert len(under_way) == 1 or sum(each.nbytes for each in under_way) <= in_flight
        for number, each in enumerate(sizes):
            assert sum(one.number == number for one in under_way) <= each.readers
    assert spans.take() is None


def _one_may_go(
    sizes: list[Sizes], read: list[int], under_way: list[Span], in_flight: int, spans: Spans
) -> bool:
    """Whether some component has a span that certainly fits: one of its largest."""
    left_bytes = in_flight - sum(each.nbytes for each in under_way)
    return not under_way or any(
        read[number] < each.total
        and sum(one.number == number for one in under_way) < each.readers
        and min(each.blocks * BLOCK, each.total - read[number]) <= left_bytes
        for number, each in enumerate(sizes)
    )


def test_the_first_component_is_handed_out_before_the_second() -> None:
    spans = Spans([Lane(16, 8, 8, 4), Lane(16, 8, 8, 4)], 4, 1000)
    assert [spans.take() for _ in range(4)] == [(0, 0, 8), (0, 8, 8), (1, 0, 8), (1, 8, 8)]


def test_spans_get_shorter_near_the_end_so_that_readers_end_together() -> None:
    spans = Spans([Lane(64 * BLOCK, 8 * BLOCK, BLOCK, 4)], 4, 10_000)
    found: list[int] = []
    while (span := spans.take()) is not None:
        found.append(span.nbytes // BLOCK)
        spans.give_back(span)
    assert found[:4] == [8, 8, 8, 8]
    assert found == sorted(found, reverse=True)
    assert found[-4:] == [1, 1, 1, 1]


@pytest.mark.parametrize("end", ["read", "stopped"])
def test_a_reader_that_waits_for_a_span_hears_that_there_will_be_none(end: str) -> None:
    spans = Spans([Lane(2 * BLOCK, BLOCK, BLOCK, 1)], 2, 1000)
    first = spans.take()
    assert first is not None
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(spans.take) for _ in range(2)]
        try:
            if end == "stopped":
                spans.stop()
                assert [each.result(10) for each in waiting] == [None, None]
            else:
                spans.give_back(first)
                found = {each.result(10) for each in waiting}
                assert found == {(0, BLOCK, BLOCK), None}, "the second one waited in vain"
        finally:
            spans.stop()  # or the pool would never end
    assert spans.take() is None


@pytest.mark.parametrize("threads", [2, 7])
def test_many_readers_at_once_leave_nothing_out(threads: int) -> None:
    sizes = [Sizes(1000, 2, True, 3), Sizes(3, 1, False, 1), Sizes(500, 4, False, 2)]
    spans = Spans([each.lane() for each in sizes], threads, 24)
    lock, seen = threading.Lock(), list[Span]()

    def read() -> None:
        while (span := spans.take()) is not None:
            with lock:
                seen.append(span)
            spans.give_back(span)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(read) for _ in range(threads)]:
            done.result(30)
    for number, each in enumerate(sizes):
        mine = sorted(span for span in seen if span.number == number)
        ends = [span.start + span.nbytes for span in mine]
        assert [span.start for span in mine] == [0, *ends[:-1]]
        assert ends[-1] == each.total


def test_nobody_waits_for_readers_of_a_load_that_moves_nothing() -> None:
    spans = Spans([Lane(0, BLOCK, BLOCK, 1)], 4, 1000)
    assert spans.readers_wanted == 0
    spans.wait_until_under_way(1e9)
    assert spans.take() is None


def test_readers_are_under_way_when_each_has_had_a_span() -> None:
    spans = Spans([Lane(100 * BLOCK, BLOCK, BLOCK, 8)], 3, 1000)
    assert spans.readers_wanted == 3
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(spans.wait_until_under_way, 30)
        taken = [spans.take() for _ in range(2)]
        assert not waiting.done()
        taken.append(spans.take())
        waiting.result(10)
    assert None not in taken
