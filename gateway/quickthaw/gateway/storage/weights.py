"""Weights, looked at while they arrive: what is no safetensors file is refused at its first bytes,
and one whose header lies as soon as the header is there.

Only what is brought as weights is looked at: by its name (`.safetensors`), whatever its type says.
The packer checks every file again before a library sees it; here the sender hears of a mistake
before it has sent gigabytes.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeGuard, cast

from quickthaw.gateway.storage.refusals import UploadRefused

SUFFIX: Final = ".safetensors"
LENGTH_BYTES: Final = 8
HEADER_BYTES_MAX: Final = 16 * 1024 * 1024
TENSORS_MAX: Final = 200_000
ITEMS_MAX: Final = 2_000_000
RANK_MAX: Final = 8
_PARSED_HERE_BYTES: Final = 64 * 1024
"""Larger headers are parsed in a thread, so that others need not wait."""
_ZIP: Final = b"PK\x03\x04"
_PICKLES: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ITEM_BYTES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
_PICKLED_NAMES: Final = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
_CONVERT: Final = "convert it to safetensors first (`safetensors.torch.save_file`)"


def is_weights(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def refuse_pickled_name(name: str) -> None:
    """Raises UploadRefused: such files run code when they are read."""
    if name.lower().endswith(_PICKLED_NAMES):
        raise UploadRefused(f"{name}: this is a pickle by its name, and none is read; {_CONVERT}")


@dataclass(slots=True)
class WeightsCheck:
    """Give `take` a file's bytes in order, then `end`. Both raise UploadRefused."""

    name: str
    _head: bytearray = field(default_factory=bytearray)
    _file_bytes: int | None = None
    """What the header says, once it was read."""
    _seen_bytes: int = 0

    async def take(self, data: bytes) -> None:
        self._seen_bytes += len(data)
        if self._file_bytes is None:
            wanted = LENGTH_BYTES + HEADER_BYTES_MAX - len(self._head)
            self._head += data[:wanted]
            await self._look()
        if self._file_bytes is not None and self._seen_bytes > self._file_bytes:
            self._refuse_longer(self._file_bytes)

    def end(self, size_bytes: int | None = None) -> None:
        """`size_bytes`: of a file whose later bytes were not given."""
        size_bytes = self._seen_bytes if size_bytes is None else size_bytes
        if len(self._head) <= LENGTH_BYTES and self._begins_as_pickle():
            self._refuse_pickle()
        if self._file_bytes is None or size_bytes < self._file_bytes:
            told = f" of {self._file_bytes}" if self._file_bytes is not None else ""
            self._refuse(f"it is cut short after {size_bytes}{told} bytes")
        if size_bytes > self._file_bytes:
            self._refuse_longer(self._file_bytes)

    @property
    def looked(self) -> bool:
        """Whether the header was there and is good."""
        return self._file_bytes is not None

    async def _look(self) -> None:
        if self._head[:4] == _ZIP:
            self._refuse_pickle()
        if len(self._head) < LENGTH_BYTES:
            return
        header_bytes = int.from_bytes(self._head[:LENGTH_BYTES], "little")
        if self._begins_as_pickle():
            # As the length of a header of 640 bytes does.
            begun = bytes(self._head[LENGTH_BYTES : LENGTH_BYTES + 1])
            if header_bytes > HEADER_BYTES_MAX or begun not in (b"", b"{"):
                self._refuse_pickle()
        if not 2 <= header_bytes <= HEADER_BYTES_MAX:
            self._refuse(
                f"its first bytes tell of a header of {header_bytes} bytes, and a safetensors "
                f"file's has 2 to {HEADER_BYTES_MAX}"
            )
        if len(self._head) > LENGTH_BYTES and self._head[LENGTH_BYTES] != ord("{"):
            self._refuse("its header is no JSON object: this is no safetensors file")
        if len(self._head) < LENGTH_BYTES + header_bytes:
            return
        text = bytes(self._head[LENGTH_BYTES : LENGTH_BYTES + header_bytes])
        parse = self._data_bytes
        data_bytes = (
            parse(text)
            if header_bytes <= _PARSED_HERE_BYTES
            else await asyncio.to_thread(parse, text)
        )
        self._head.clear()
        self._file_bytes = LENGTH_BYTES + header_bytes + data_bytes

    def _begins_as_pickle(self) -> bool:
        return bytes(self._head[:2]) in _PICKLES

    def _refuse_pickle(self) -> NoReturn:
        self._refuse(f"this is a pickle, and none is read; {_CONVERT}")

    def _data_bytes(self, text: bytes) -> int:
        """How long the data behind the header is."""
        if text.count(b",") > ITEMS_MAX:
            self._refuse(f"its header has more than {ITEMS_MAX} items")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UploadRefused(f"{self.name}: its header is no JSON: {error}") from error
        if not isinstance(value, dict):
            self._refuse("its header is no JSON object")
        entries = cast("dict[str, Any]", value)
        entries.pop("__metadata__", None)
        if len(entries) > TENSORS_MAX:
            self._refuse(f"it has {len(entries)} tensors, and {TENSORS_MAX} are the most")
        spans = sorted(self._span(name, entry) for name, entry in entries.items())
        end = 0
        for start, stop, name in spans:
            if start != end:
                what = "overlaps the one before it" if start < end else "has a hole before it"
                self._refuse(f"tensor {name[:200]!r} {what}")
            end = stop
        return end

    def _span(self, name: str, entry: object) -> tuple[int, int, str]:
        """Where the tensor's data lies."""
        tensor = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        dtype, shape, offsets = (tensor.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            self._refuse(f"tensor {name[:200]!r} has no dtype that safetensors knows")
        if not _counts(shape) or len(shape) > RANK_MAX:
            self._refuse(f"tensor {name[:200]!r} has no shape")
        if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self._refuse(f"tensor {name[:200]!r} has no data_offsets")
        size = math.prod(shape) * _ITEM_BYTES[dtype]
        if offsets[1] - offsets[0] != size:
            self._refuse(
                f"tensor {name[:200]!r} takes {size} bytes, and its data_offsets say "
                f"{offsets[1] - offsets[0]}"
            )
        return offsets[0], offsets[1], name

    def _refuse_longer(self, file_bytes: int) -> NoReturn:
        self._refuse(f"it goes on after the {file_bytes} bytes that its header tells of")

    def _refuse(self, what: str) -> NoReturn:
        raise UploadRefused(f"{self.name}: {what}")


def _counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 1 << 48
        for each in cast("list[object]", value)
    )


async def checked(
    name: str, data: AsyncIterable[bytes], *, whole: bool = True
) -> AsyncIterator[bytes]:
    """The data as it is, unless it is refused: as a whole file, or the beginning of one."""
    check = WeightsCheck(name)
    async for piece in data:
        if whole or not check.looked:
            await check.take(piece)
        yield piece
    if whole:
        check.end()
