"""One byte range of a file of known size, as HTTP asks for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_DIGITS_MAX = 18


class RangeNotSatisfiable(Exception):
    pass


@dataclass(frozen=True, slots=True)
class ByteRange:
    start: int
    stop: int
    """Exclusive."""


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """None: send the whole file (no range, several, or none that we understand).

    Raises RangeNotSatisfiable for one that begins behind the end.
    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or any(len(digits) > _DIGITS_MAX for digits in match.groups()):
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0 or size_bytes == 0:
            raise RangeNotSatisfiable
        return ByteRange(max(0, size_bytes - int(last)), size_bytes)
    start = int(first)
    stop = size_bytes if not last else min(int(last) + 1, size_bytes)
    if last and int(last) < start:
        return None
    if start >= size_bytes:
        raise RangeNotSatisfiable
    return ByteRange(start, stop)
