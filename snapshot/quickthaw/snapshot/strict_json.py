"""JSON from strangers, bounded before it becomes objects.

Python's parser takes what the format forbids (NaN, infinities, numbers that overflow to them,
duplicate keys, halves of surrogate pairs), and turns two bytes of text into seventy of memory.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

_LONE_SURROGATES = re.compile(rb"\\u[dD][89a-fA-F]")


class DuplicateKey(ValueError):
    """`key` appears twice in one object."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key[:80]!r} appears twice in one object")
        self.key = key


def parse_json(encoded: bytes, items_max: int) -> object:
    """Raises `ValueError`, saying why, for everything but plain JSON of at most `items_max` items.

    Items are counted roughly, by what separates them, so that a text is refused unparsed.
    """
    items = encoded.count(b",") + encoded.count(b"[") + encoded.count(b"{")
    if items > items_max:
        raise ValueError(f"has about {items} items, more than {items_max}")
    try:
        document: object = json.loads(
            encoded.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError as error:
        raise ValueError("is nested too deep") from error
    if _LONE_SURROGATES.search(encoded):
        # Most are halves of proper pairs. A lone one is no text: nothing could write or send it.
        json.dumps(document, ensure_ascii=False).encode()
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(key)
            seen.add(key)
    return found


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a JSON value")


def _finite(token: str) -> float:
    number = float(token)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{token[:40]} is too large a number")
    return number
