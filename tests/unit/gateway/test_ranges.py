from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.gateway.ranges import ByteRange, RangeNotSatisfiable, parse_range


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-", ByteRange(0, 10)),
        ("bytes=2-4", ByteRange(2, 5)),
        ("bytes= 2 - 4 ", ByteRange(2, 5)),
        ("bytes=9-99", ByteRange(9, 10)),
        ("bytes=-3", ByteRange(7, 10)),
        ("bytes=-99", ByteRange(0, 10)),
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,4-5", None),
        ("items=0-1", None),
        ("bytes=" + "9" * 50 + "-", None),
        ("bytes=\u0661-", None),
    ],
)
def test_one_understood_range_is_served_and_anything_else_is_the_whole_file(
    header: str | None, wanted: ByteRange | None
) -> None:
    assert parse_range(header, 10) == wanted


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 10)


@given(st.text(max_size=30) | st.from_regex(r"bytes=\d{0,6}-\d{0,6}"), st.integers(0, 10_000))
def test_a_range_never_leaves_the_file(header: str, size_bytes: int) -> None:
    try:
        wanted = parse_range(header, size_bytes)
    except RangeNotSatisfiable:
        return
    assert wanted is None or 0 <= wanted.start < wanted.stop <= size_bytes
