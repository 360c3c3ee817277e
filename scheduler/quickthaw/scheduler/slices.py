"""How much of a frame is done at once.

A frame carries many messages because each costs a fraction of a frame. But whoever waits for what
the first of them lead to, on another core, should not wait for the last: so frames are handled, and
answered, in slices, between which the event loop sends what has come of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

_Message = TypeVar("_Message")

SLICE_MAX = 32
"""Messages: about as long as a frame's own cost is worth."""


def slices(messages: Sequence[_Message]) -> Iterator[Sequence[_Message]]:
    for start in range(0, len(messages), SLICE_MAX):
        yield messages[start : start + SLICE_MAX]
