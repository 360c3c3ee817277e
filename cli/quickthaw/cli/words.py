"""Words of a fixed set on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from quickthaw.cli.errors import UsageFault

Word = TypeVar("Word", bound=StrEnum)
UNKNOWN = "unknown"
"""What a newer platform's words become: nothing to ask for."""


def read_words(option: str, texts: Sequence[str], kind: type[Word]) -> list[Word]:
    """In any case. Raises UsageFault naming the option and the word."""
    known = {each.value: each for each in kind if each.value != UNKNOWN}
    found: list[Word] = []
    for text in texts:
        if text.lower() not in known:
            raise UsageFault(
                f"{option} {text!r} is nothing to choose", f"choose from {', '.join(known)}"
            )
        found.append(known[text.lower()])
    return found
