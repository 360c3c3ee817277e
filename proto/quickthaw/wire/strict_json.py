"""JSON from strangers, strict where the standard library is generous: what it lets through others
could not read, and a few bytes of it become a hundred in memory."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

VALUES_MAX: Final = 50_000
"""Of one input."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def decode(text: str) -> Any:
    """Raises ValueError, also for numbers that JSON has not, and RecursionError. Texts may hold
    half characters: see `half_character`."""
    return _DECODER.decode(text)


def values_at_most(text: str) -> int:
    """More than there are where texts hold commas or brackets; never fewer."""
    return 1 + sum(map(text.count, ",[{"))


def may_hold_halves(text: str) -> bool:
    """Whether to look for half characters in what this text says: almost none holds an escape."""
    return "\\" in text and _SURROGATE.search(text) is not None


def half_character(value: Any) -> str | None:
    """The first half of a surrogate pair that stands alone in the texts of a value, as JSON says
    it. Validators, tokenizers and the wire cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(error.object[error.start]):04x}"
    return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is larger than any number")
    return number


# `json.loads` makes a new one for each call that has options.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
