"""Realtime frames: MessagePack and JSON in, MessagePack and control messages out.

A frame comes from anyone and may be 64 MiB: what it would become in memory is bounded before it is
decoded. A MessagePack array of empty maps grows sixty-fourfold, and a header alone makes a decoder
set memory aside, so its structure is walked first, which skips over texts and bytes.
"""

from __future__ import annotations

import base64
import math
from typing import Final, TypeAlias, cast

import msgpack

from quickthaw.gateway.json_text import Json, JsonObject, parse, render
from quickthaw.wire.strict_json import values_at_most

ITEMS_MAX: Final = 20_000
"""Values of one frame, keys included."""
DEPTH_MAX: Final = 32
KEY_CHARS_MAX: Final = 200

Packed: TypeAlias = "Json | bytes | list[Packed] | dict[str, Packed]"
"""What MessagePack can say that JSON cannot: bytes."""

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
# Lengths in bytes of the numbers from 0xca on: floats, unsigned and signed integers.
_NUMBERS: Final = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8} | {
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}
# Bytes of the length that follows: bin and str.
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
# Bytes of the count that follows, and values for each: array and map.
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


class BadFrame(ValueError):
    """A frame that holds no arguments; the text says why."""


def decode(frame: bytes | str) -> JsonObject:
    """The arguments of an input; bytes in them become data: URIs. Raises BadFrame."""
    value = _from_json(frame) if isinstance(frame, str) else _from_msgpack(frame)
    if not isinstance(value, dict):
        raise BadFrame("a frame holds one map of the model's arguments")
    return cast("JsonObject", value)


def encode(value: dict[str, Packed]) -> bytes:
    # Half a surrogate pair is text to JSON and none to UTF-8.
    packed = msgpack.packb(value, use_bin_type=True, unicode_errors="replace")
    assert isinstance(packed, bytes)
    return packed


def error_frame(code: str, reason: str) -> str:
    """Both clients raise it; the connection goes on."""
    return render({"type": "x-fal-error", "error": code, "reason": reason})


def timings_frame(run_seconds: float) -> str:
    return render({"type": "x-fal-message", "action": "timings", "timing": run_seconds})


def _from_json(text: str) -> Json:
    if values_at_most(text) > ITEMS_MAX:
        raise BadFrame(f"more than {ITEMS_MAX} values; send files as URLs or data: URIs")
    try:
        return parse(text)
    except RecursionError as error:
        raise BadFrame("the text is nested too deeply") from error
    except ValueError as error:
        raise BadFrame(f"the text is not JSON: {error}") from error


def _from_msgpack(frame: bytes) -> Json:
    _check_structure(frame)
    try:
        value = msgpack.unpackb(frame, raw=False, strict_map_key=True, timestamp=0)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise BadFrame(f"the bytes are not MessagePack: {error}") from error
    return _plain(value)


def _plain(value: object) -> Json:
    """MessagePack's values as JSON has them. The depth is bounded already."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise BadFrame("infinities and NaN are no arguments")
            return value
        case bytes():
            return _data_uri(value)
        case list():
            return [_plain(item) for item in value]
        case dict():
            if not all(isinstance(key, str) and len(key) <= KEY_CHARS_MAX for key in value):
                raise BadFrame(f"keys are texts of at most {KEY_CHARS_MAX} characters")
            return {key: _plain(item) for key, item in value.items()}
        case _:
            raise BadFrame("extension types are no arguments")


def _data_uri(data: bytes) -> str:
    kind = next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)
    if kind is None:
        is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
        kind = "image/webp" if is_webp else "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _check_structure(frame: bytes) -> None:
    """That it is one value of at most ITEMS_MAX values and DEPTH_MAX levels. Raises BadFrame."""
    position, items = 0, 0
    # Values that are still to come on each level.
    levels = [1]
    while levels:
        if not levels[-1]:
            levels.pop()
            continue
        levels[-1] -= 1
        items += 1
        if position >= len(frame) or items > ITEMS_MAX:
            raise BadFrame(
                f"more than {ITEMS_MAX} values" if items > ITEMS_MAX else "the frame is cut off"
            )
        skipped, inner = _value_at(frame, position)
        position += skipped
        if inner:
            if len(levels) >= DEPTH_MAX:
                raise BadFrame(f"nested more than {DEPTH_MAX} levels deep")
            if inner > len(frame) - position:
                raise BadFrame("the frame is cut off")
            levels.append(inner)
    if position != len(frame):
        raise BadFrame("the bytes are not one MessagePack value")


def _value_at(frame: bytes, position: int) -> tuple[int, int]:
    """How many bytes the value there takes without what it contains, and how many it contains."""
    kind = frame[position]
    if kind <= 0x7F or kind >= 0xE0 or kind in (0xC0, 0xC2, 0xC3):
        return 1, 0
    if kind <= 0x8F:
        return 1, 2 * (kind & 0x0F)
    if kind <= 0x9F:
        return 1, kind & 0x0F
    if kind <= 0xBF:
        return 1 + (kind & 0x1F), 0
    if (size := _NUMBERS.get(kind)) is not None:
        return 1 + size, 0
    if (width := _SIZED.get(kind)) is not None:
        return 1 + width + _number(frame, position + 1, width), 0
    if (counted := _COUNTED.get(kind)) is not None:
        width, each = counted
        return 1 + width, each * _number(frame, position + 1, width)
    raise BadFrame("extension types are no arguments")


def _number(frame: bytes, start: int, width: int) -> int:
    return int.from_bytes(frame[start : start + width], "big")
