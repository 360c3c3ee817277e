from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path

import pytest

from quickthaw.snapshot.format import (
    HEADER_BYTES_MAX,
    Problem,
    TensorSpec,
    check_aligned,
    encode_header,
    lay_out,
    parse_header,
    read_header,
    refuse_pickle_bytes,
)
from quickthaw.wire.errors import SnapshotInvalid


def raw_header(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def tensor(begin: int, end: int, *, dtype: str = "U8", shape: list[int] | None = None) -> str:
    shape = [end - begin] if shape is None else shape
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})


BROKEN = {
    "not json": ("{", 0, Problem.HEADER_NOT_JSON),
    "not utf-8": ("\udcff", 0, Problem.HEADER_NOT_JSON),
    "a list": ("[]", 0, Problem.HEADER_MALFORMED),
    "too deep": ("[" * 100_000, 0, Problem.HEADER_NOT_JSON),
    "metadata of numbers": ('{"__metadata__": {"a": 1}}', 0, Problem.HEADER_MALFORMED),
    "nan": ('{"a": NaN}', 0, Problem.HEADER_NOT_JSON),
    "a duplicate": (f'{{"a": {tensor(0, 4)}, "a": {tensor(4, 8)}}}', 8, Problem.DUPLICATE_NAME),
    "a key too many": ('{"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1], "x": 0}}', 1,
                       Problem.HEADER_MALFORMED),
    "no name": (f'{{"": {tensor(0, 4)}}}', 4, Problem.HEADER_MALFORMED),
    "unknown dtype": (f'{{"a": {tensor(0, 4, dtype="F31")}}}', 4, Problem.UNKNOWN_DTYPE),
    "negative shape": (f'{{"a": {tensor(0, 4, shape=[-2, -2])}}}', 4, Problem.BAD_SHAPE),
    "nine dimensions": (f'{{"a": {tensor(0, 1, shape=[1] * 9)}}}', 1, Problem.BAD_SHAPE),
    "shape of floats": ('{"a": {"dtype": "U8", "shape": [4.0], "data_offsets": [0, 4]}}', 4,
                        Problem.BAD_SHAPE),
    "shape of booleans": ('{"a": {"dtype": "U8", "shape": [true], "data_offsets": [0, 1]}}', 1,
                          Problem.BAD_SHAPE),
    "overflowing shape": (f'{{"a": {tensor(0, 0, shape=[1 << 40, 1 << 40, 1 << 40])}}}', 0,
                          Problem.SIZE_MISMATCH),
    "a shape beyond any disk": (f'{{"a": {tensor(0, 4, shape=[1 << 70])}}}', 4,
                                Problem.BAD_SHAPE),
    "backward offsets": (f'{{"a": {tensor(4, 0, shape=[4])}}}', 4, Problem.BAD_OFFSETS),
    "nan offsets": ('{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 1e400]}}', 4,
                    Problem.HEADER_NOT_JSON),
    "wrong size": (f'{{"a": {tensor(0, 4, shape=[3])}}}', 4, Problem.SIZE_MISMATCH),
    "an overlap": (f'{{"a": {tensor(0, 4)}, "b": {tensor(2, 6)}}}', 6, Problem.OVERLAP),
    "a hole": (f'{{"a": {tensor(0, 4)}, "b": {tensor(6, 8)}}}', 8, Problem.HOLE),
    "past the end": (f'{{"a": {tensor(0, 4)}, "b": {tensor(4, 9)}}}', 8, Problem.OUT_OF_RANGE),
    "trailing bytes": (f'{{"a": {tensor(0, 4)}}}', 5, Problem.TRAILING_BYTES),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_way_of_being_invalid_has_its_own_error(name: str) -> None:
    text, data_bytes, problem = BROKEN[name]
    encoded = text.encode("utf-8", "surrogateescape")
    raw = struct.pack("<Q", len(encoded)) + encoded
    with pytest.raises(SnapshotInvalid) as caught:
        parse_header(raw, data_bytes, "part.safetensors")
    assert caught.value.metadata["problem"] == problem
    assert "part.safetensors" in caught.value.message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", Problem.TRUNCATED),
        (b"\x05\x00\x00", Problem.TRUNCATED),
        (struct.pack("<Q", 100) + b"{}", Problem.TRUNCATED),
        (struct.pack("<Q", HEADER_BYTES_MAX + 1) + b"{}", Problem.HEADER_TOO_LARGE),
        (b"\xff" * 8 + b"{}", Problem.HEADER_TOO_LARGE),
        (b"PK\x03\x04" + b"\x14" * 60, Problem.UNSAFE),
        (b"\x80\x02}q\x00" + b"x" * 60, Problem.UNSAFE),
    ],
)
def test_a_hostile_length_is_refused_before_anything_is_read(
    content: bytes, problem: Problem, tmp_path: Path
) -> None:
    path = tmp_path / "part.safetensors"
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(SnapshotInvalid) as caught:
        read_header(file, str(path))
    assert caught.value.metadata["problem"] == problem


def test_a_misaligned_file_is_valid_safetensors_but_no_component() -> None:
    raw = raw_header(f'{{"a": {tensor(0, 4)}}}')
    header = parse_header(raw, 4, "part")
    with pytest.raises(SnapshotInvalid) as caught:
        check_aligned(header, "part")
    assert caught.value.metadata["problem"] == Problem.MISALIGNED


def test_tensors_lie_on_256_bytes_and_data_on_a_page() -> None:
    specs = [TensorSpec("a", "F16", (3,)), TensorSpec("b", "F32", (64,)), TensorSpec("c", "U8", ())]
    entries = lay_out(specs)
    raw = encode_header(entries)
    header = parse_header(raw, entries[-1].end, "part")
    check_aligned(header, "part")
    assert [(each.name, each.start) for each in header.tensors] == [
        ("a", 0),
        ("b", 256),
        ("c", 512),
    ]
    assert [each.name for each in header.entries] == ["a", "__pad__0__", "b", "c"]
    assert header.data_start == len(raw) == 4096


def test_a_tensor_may_not_pose_as_a_pad_or_as_another() -> None:
    for name in ("__pad__0__", "__metadata__"):
        with pytest.raises(SnapshotInvalid):
            lay_out([TensorSpec(name, "U8", (1,))])
    with pytest.raises(SnapshotInvalid, match="taken"):
        lay_out([TensorSpec("a", "U8", (1,)), TensorSpec("a", "U8", (1,))])


def test_equal_specs_give_equal_headers() -> None:
    specs = [TensorSpec(f"layer.{each}", "BF16", (each + 1, 3)) for each in range(50)]
    assert encode_header(lay_out(specs)) == encode_header(lay_out(list(specs)))


def test_a_header_is_read_from_the_start_wherever_the_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    path.write_bytes(encode_header(lay_out([TensorSpec("a", "U8", (2,))])) + b"ab")
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        assert isinstance(file, io.BufferedReader)
        assert read_header(file, "part").data_bytes == 2


@pytest.mark.parametrize("length", [0x0280, 0x0580, HEADER_BYTES_MAX - 0x10000 + 0x0480])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(length: int) -> None:
    refuse_pickle_bytes(length.to_bytes(8, "little") + b"{", "a.safetensors")


@pytest.mark.parametrize(
    "start", [b"\x80\x02}q\x00X\x01\x00\x00", b"\x80\x05\x95" + bytes(6), b"\x80\x04."]
)
def test_a_pickle_is_known_by_its_first_bytes(start: bytes) -> None:
    with pytest.raises(SnapshotInvalid, match="pickle"):
        refuse_pickle_bytes(start, "a.safetensors")
