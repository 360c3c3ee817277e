"""Weights that arrive in pieces: whole ones pass however they are cut, others are named at once."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quickthaw.gateway.storage import UploadRefused
from quickthaw.gateway.storage.weights import WeightsCheck, checked, refuse_pickled_name

NAME = "style.safetensors"
Entries = dict[str, dict[str, object]]


def a_file(entries: Entries, data_bytes: int, padding: int = 0) -> bytes:
    text = json.dumps(entries).encode() + b" " * padding
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def two_tensors() -> Entries:
    return {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
    }


async def pieces_of(content: bytes, cuts: Sequence[int]) -> AsyncIterator[bytes]:
    edges = sorted({0, len(content), *(min(cut, len(content)) for cut in cuts)})
    for start, stop in itertools.pairwise(edges):
        yield content[start:stop]


def arrived(content: bytes, cuts: Sequence[int] = ()) -> bytes:
    async def read() -> bytes:
        return b"".join([piece async for piece in checked(NAME, pieces_of(content, cuts))])

    return asyncio.run(read())


def refused(content: bytes, cuts: Sequence[int] = ()) -> str:
    with pytest.raises(UploadRefused) as caught:
        arrived(content, cuts)
    assert NAME in str(caught.value)
    return str(caught.value)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=6),
    padding=st.integers(0, 90_000),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_a_whole_file_passes_unchanged_however_it_is_cut(
    sizes: list[int], padding: int, cuts: list[int]
) -> None:
    entries: Entries = {}
    end = 0
    for index, size in enumerate(sizes):
        entries[f"t{index}"] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    content = a_file(entries, end, padding)
    assert arrived(content, cuts) == content


@pytest.mark.parametrize("header_bytes", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(header_bytes: int) -> None:
    content = a_file(two_tensors(), 16)
    padding = header_bytes - int.from_bytes(content[:8], "little")
    content = a_file(two_tensors(), 16, padding)
    assert int.from_bytes(content[:8], "little") == header_bytes
    assert arrived(content) == content


@settings(max_examples=60)
@given(missing=st.integers(1, 200), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_a_file_that_is_cut_short_never_passes(missing: int, cuts: list[int]) -> None:
    content = a_file(two_tensors(), 16)
    assert "cut short" in refused(content[: max(0, len(content) - missing)], cuts)


@settings(max_examples=150)
@given(garbage=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_garbage_is_refused_and_never_crashes_the_check(garbage: bytes, cuts: list[int]) -> None:
    refused(garbage, cuts)


@pytest.mark.parametrize(
    ("beginning", "said"),
    [
        (b"\x80\x02}q\x00X\x01\x00", "pickle"),
        (b"\x80\x04\x95\x10\x01\x00\x00\x00", "pickle"),
        (b"PK\x03\x04\x00\x00", "pickle"),
        (b"\xff" * 8, "header"),
        ((1).to_bytes(8, "little"), "header"),
        ((50).to_bytes(8, "little") + b"[", "no JSON object"),
    ],
)
async def test_what_is_no_safetensors_file_is_refused_at_its_first_bytes(
    beginning: bytes, said: str
) -> None:
    check = WeightsCheck(NAME)
    with pytest.raises(UploadRefused, match=said):
        await check.take(beginning)


async def test_a_pickle_of_a_few_bytes_is_called_one() -> None:
    check = WeightsCheck(NAME)
    await check.take(b"\x80\x04N.")
    with pytest.raises(UploadRefused, match="pickle"):
        check.end()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("b", {"data_offsets": [8, 12]}, "overlaps"),
        ("b", {"data_offsets": [14, 18]}, "hole"),
        ("b", {"data_offsets": [12, 20]}, "takes 4 bytes"),
        ("b", {"data_offsets": [16, 12]}, "data_offsets"),
        ("b", {"data_offsets": [12, 16, 20]}, "data_offsets"),
        ("b", {"data_offsets": [True, 16]}, "data_offsets"),
        ("b", {"dtype": "F7"}, "dtype"),
        ("b", {"dtype": ["F32"]}, "dtype"),
        ("a", {"shape": [2, -3]}, "shape"),
        ("a", {"shape": [1 << 60]}, "shape"),
        ("a", {"shape": [1] * 9}, "shape"),
        ("a", {"shape": "23"}, "shape"),
    ],
)
def test_a_header_that_lies_is_refused_with_the_tensor(
    name: str, change: dict[str, object], said: str
) -> None:
    entries = two_tensors()
    entries[name] |= change
    told = refused(a_file(entries, 16))
    assert said in told
    assert "tensor" in told


async def test_a_header_is_judged_before_the_data_comes() -> None:
    entries = two_tensors()
    entries["b"] |= {"data_offsets": [0, 4]}
    check = WeightsCheck(NAME)
    with pytest.raises(UploadRefused, match="overlaps"):
        await check.take(a_file(entries, 0))


async def test_what_goes_on_after_its_end_is_refused_as_soon_as_it_does() -> None:
    check = WeightsCheck(NAME)
    await check.take(a_file(two_tensors(), 16))
    with pytest.raises(UploadRefused, match="goes on"):
        await check.take(b"x")


@pytest.mark.parametrize("name", ["model.ckpt", "a/b.BIN", "x.pt", "x.pth"])
def test_a_pickle_by_its_name_is_refused_by_it(name: str) -> None:
    with pytest.raises(UploadRefused, match="pickle"):
        refuse_pickled_name(name)
