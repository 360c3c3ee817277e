"""Component files: parsing, checking and laying out their safetensors headers (FORMAT.md §2-§4).

Nothing here touches tensors, so that inspecting a file costs no tensor library. Every function
that reads foreign bytes raises `SnapshotInvalid` with `metadata["problem"]` set to one of
`Problem`, never anything else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, NoReturn

from quickthaw.snapshot.strict_json import DuplicateKey, parse_json
from quickthaw.wire.errors import SnapshotInvalid

FORMAT_VERSION = 1
DATA_ALIGNMENT = 4096
"""The data section starts on a page, so that it can be read with O_DIRECT and mapped."""
TENSOR_ALIGNMENT = 256
"""What a CUDA allocation promises; less changes the last bits of some CPU kernels too."""
HEADER_BYTES_MAX = 16 * 1024 * 1024
HEADER_ITEMS_MAX = 2_000_000
"""Ten for each of as many tensors as there may be; it is what bounds the memory of parsing."""
TENSORS_MAX = 200_000
NAME_CHARS_MAX = 512
RANK_MAX = 8
DATA_BYTES_MAX = 1 << 42
PAD_PREFIX = "__pad__"
PLACE_CHARS_MAX = 500
MESSAGE_CHARS_MAX = 2000
METADATA_KEY = "__metadata__"

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}


class Problem(StrEnum):
    """What is wrong with a file, for programs; the message says it for people."""

    TRUNCATED = "truncated"
    HEADER_TOO_LARGE = "header_too_large"
    HEADER_NOT_JSON = "header_not_json"
    HEADER_MALFORMED = "header_malformed"
    DUPLICATE_NAME = "duplicate_name"
    UNKNOWN_DTYPE = "unknown_dtype"
    BAD_SHAPE = "bad_shape"
    BAD_OFFSETS = "bad_offsets"
    SIZE_MISMATCH = "size_mismatch"
    OVERLAP = "overlap"
    HOLE = "hole"
    OUT_OF_RANGE = "out_of_range"
    TRAILING_BYTES = "trailing_bytes"
    MISALIGNED = "misaligned"
    TOO_MANY_TENSORS = "too_many_tensors"
    UNSAFE = "unsafe"
    MANIFEST = "manifest"
    MISSING = "missing"


def invalid(problem: Problem, where: str, message: str) -> NoReturn:
    """Raises `SnapshotInvalid`; `where` names the file or component."""
    place = _plain(where)
    raise SnapshotInvalid(
        f"{place[:PLACE_CHARS_MAX]}: {_plain(message)[:MESSAGE_CHARS_MAX]}",
        metadata={"problem": problem.value, "where": place[:200]},
    )


def _plain(text: str) -> str:
    """Safe for terminals, logs and the wire: strangers choose the names that errors quote."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text
    )


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor before it has a place."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor's place: `start` and `end` count bytes from the start of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def is_pad(self) -> bool:
        return self.name.startswith(PAD_PREFIX)


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header. `entries` are in file order, pads included, and tile the data section."""

    entries: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]
    data_start: int
    data_bytes: int
    digest: str
    """SHA-256 of the header as it lies in the file, length prefix and padding included."""

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        return tuple(entry for entry in self.entries if not entry.is_pad)

    @property
    def file_bytes(self) -> int:
        return self.data_start + self.data_bytes


def read_header(file: BinaryIO, where: str) -> Header:
    """The header of any safetensors file, aligned or not; `file` must be seekable."""
    file_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    prefix = file.read(8)
    if len(prefix) < 8:
        invalid(Problem.TRUNCATED, where, f"{file_bytes} bytes is too short for a header length")
    length = int.from_bytes(prefix, "little")
    if length > HEADER_BYTES_MAX:
        refuse_pickle_bytes(prefix, where)
        invalid(
            Problem.HEADER_TOO_LARGE,
            where,
            f"the header claims {length} bytes, more than the limit of {HEADER_BYTES_MAX}; "
            "is this a safetensors file?",
        )
    if 8 + length > file_bytes:
        invalid(
            Problem.TRUNCATED,
            where,
            f"the header claims {length} bytes but the file has only {file_bytes}",
        )
    text = file.read(length)
    if len(text) < length:
        invalid(Problem.TRUNCATED, where, "the file ends inside its header")
    return parse_header(prefix + text, file_bytes - 8 - length, where)


def parse_header(raw: bytes, data_bytes: int, where: str) -> Header:
    """`raw`: the whole header with its 8-byte length; `data_bytes`: what follows it in the file."""
    if len(raw) < 8 or int.from_bytes(raw[:8], "little") != len(raw) - 8:
        invalid(
            Problem.HEADER_MALFORMED,
            where,
            f"the file does not say that its header has the {max(len(raw) - 8, 0)} bytes that the "
            "manifest says",
        )
    metadata: dict[str, str] = {}
    entries: list[TensorEntry] = []
    for name, fields in _header_pairs(raw[8:], where):
        if name == METADATA_KEY:
            metadata = _metadata(fields, where)
        else:
            entries.append(_entry(name, fields, where))
        if len(entries) > TENSORS_MAX:
            invalid(Problem.TOO_MANY_TENSORS, where, f"more than {TENSORS_MAX} tensors")
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_tiling(entries, data_bytes, where)
    return Header(tuple(entries), metadata, len(raw), data_bytes, hashlib.sha256(raw).hexdigest())


def check_aligned(header: Header, where: str) -> None:
    """Refuses a safetensors file that cannot be a component: its data is not the VRAM image."""
    if header.data_start % DATA_ALIGNMENT:
        invalid(
            Problem.MISALIGNED,
            where,
            f"data starts at byte {header.data_start}, not on a {DATA_ALIGNMENT} B boundary; "
            "pack the file into a snapshot instead of copying it in",
        )
    for entry in header.entries:
        if not entry.is_pad and entry.start % TENSOR_ALIGNMENT:
            invalid(
                Problem.MISALIGNED,
                where,
                f"tensor {entry.name!r} starts at {entry.start}, not a multiple of "
                f"{TENSOR_ALIGNMENT}",
            )


def _header_pairs(text: bytes, where: str) -> list[tuple[str, object]]:
    try:
        header = parse_json(text, HEADER_ITEMS_MAX)
    except DuplicateKey as error:
        invalid(Problem.DUPLICATE_NAME, where, f"{error.key[:80]!r} appears twice in the header")
    except ValueError as error:
        invalid(Problem.HEADER_NOT_JSON, where, f"the header is not JSON: {str(error)[:200]}")
    if not isinstance(header, dict):
        invalid(Problem.HEADER_MALFORMED, where, "the header is not a JSON object")
    return list(header.items())


def _metadata(fields: object, where: str) -> dict[str, str]:
    if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
        invalid(Problem.HEADER_MALFORMED, where, f"{METADATA_KEY} must map strings to strings")
    return fields


def _entry(name: str, fields: object, where: str) -> TensorEntry:
    if not name or len(name) > NAME_CHARS_MAX:
        invalid(
            Problem.HEADER_MALFORMED,
            where,
            f"a tensor's name has {len(name)} characters; 1 to {NAME_CHARS_MAX} are allowed",
        )
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        invalid(
            Problem.HEADER_MALFORMED,
            where,
            f"tensor {name!r} must have exactly dtype, shape and data_offsets",
        )
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        invalid(Problem.UNKNOWN_DTYPE, where, f"tensor {name!r} has unknown dtype {dtype!r:.40}")
    if not _naturals(shape) or len(shape) > RANK_MAX:
        invalid(
            Problem.BAD_SHAPE,
            where,
            f"tensor {name!r} has shape {shape!r:.80}; wanted at most {RANK_MAX} whole numbers",
        )
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        invalid(Problem.BAD_OFFSETS, where, f"tensor {name!r} has data_offsets {offsets!r:.80}")
    # Python's integers do not overflow, so a hostile shape is simply a size that cannot match.
    wanted = TensorSpec(name, dtype, tuple(shape)).nbytes
    if offsets[1] - offsets[0] != wanted:
        invalid(
            Problem.SIZE_MISMATCH,
            where,
            f"tensor {name!r} of shape {shape!r:.80} and dtype {dtype} has "
            f"{offsets[1] - offsets[0]} bytes",
        )
    return TensorEntry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item <= DATA_BYTES_MAX for item in value
    )


def _check_tiling(entries: Sequence[TensorEntry], data_bytes: int, where: str) -> None:
    """Sorted `entries` must cover the data section exactly: no hole, no overlap, nothing after."""
    position = 0
    for entry in entries:
        if entry.end > data_bytes:
            invalid(
                Problem.OUT_OF_RANGE,
                where,
                f"tensor {entry.name!r} ends at {entry.end} but the file holds {data_bytes} "
                "bytes of data; it may be cut off",
            )
        if entry.start < position:
            invalid(
                Problem.OVERLAP,
                where,
                f"tensor {entry.name!r} starts at {entry.start}, inside the one before it",
            )
        if entry.start > position:
            invalid(
                Problem.HOLE,
                where,
                f"nothing describes bytes {position} to {entry.start}, before {entry.name!r}",
            )
        position = entry.end
    if position != data_bytes:
        invalid(
            Problem.TRAILING_BYTES,
            where,
            f"{data_bytes - position} bytes follow the last tensor",
        )


def lay_out(specs: Iterable[TensorSpec], where: str = "layout") -> tuple[TensorEntry, ...]:
    """Places tensors in the order given, a pad tensor before each that would be misaligned.

    The order is the caller's (module order, FORMAT.md §4), so equal specs give equal layouts.
    """
    entries: list[TensorEntry] = []
    names: set[str] = set()
    position = pads = 0
    for spec in specs:
        if spec.name in names or spec.name == METADATA_KEY or spec.name.startswith(PAD_PREFIX):
            invalid(Problem.DUPLICATE_NAME, where, f"tensor name {spec.name!r} is taken")
        names.add(spec.name)
        if gap := -position % TENSOR_ALIGNMENT:
            entries.append(
                TensorEntry(f"{PAD_PREFIX}{pads}__", "U8", (gap,), position, position + gap)
            )
            position, pads = position + gap, pads + 1
        entries.append(
            TensorEntry(spec.name, spec.dtype, spec.shape, position, position + spec.nbytes)
        )
        position += spec.nbytes
    return tuple(entries)


def encode_header(entries: Sequence[TensorEntry]) -> bytes:
    """Length, JSON and spaces up to the next page. Equal entries give equal bytes."""
    header: dict[str, object] = {
        METADATA_KEY: {"format": "pt", "quickthaw": f"component/{FORMAT_VERSION}"}
    }
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % DATA_ALIGNMENT)
    if len(text) > HEADER_BYTES_MAX:
        invalid(Problem.HEADER_TOO_LARGE, "layout", f"the header would take {len(text)} bytes")
    return len(text).to_bytes(8, "little") + text


PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
_CONVERT = (
    "Loading it could run any code it contains, so it is refused. Convert it once, where you trust "
    "it: load it with diffusers and call save_pretrained(FOLDER, safe_serialization=True), then "
    "pack that folder"
)


def refuse_pickle_name(name: str) -> None:
    """Raises for a file name by which Python pickles go."""
    if name.lower().endswith(PICKLE_SUFFIXES):
        invalid(Problem.UNSAFE, name, f"this is a pickle by its name. {_CONVERT}")


def refuse_pickle_bytes(start: bytes, where: str) -> None:
    """Raises if a file whose first 9 bytes are `start` is a pickle, or the zip archive that
    torch.save writes. The length of a header of 640 bytes begins as a pickle does."""
    pickled = start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"
    header = start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= HEADER_BYTES_MAX
    if start[:4] == b"PK\x03\x04" or (pickled and not header):
        invalid(Problem.UNSAFE, where, f"this is a pickle, not safetensors. {_CONVERT}")
