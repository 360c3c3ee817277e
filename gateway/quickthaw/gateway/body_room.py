"""Memory for what callers send faster than it is used, all callers' together: bodies and messages
of WebSockets while they arrive, and such messages that wait for their turn.

Who sends a body has not shown a key yet, so that what one connection may send, times the
connections that there may be, is not to be had for the asking; and none of those who send may have
it all (`shares.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.shares import Shares

RETRY_SECONDS = 2


class BodyRoom(Shares):
    """In bytes."""

    @contextmanager
    def arriving(self, holder: str) -> Iterator[Callable[[int], None]]:
        """A function that is told each piece's length before the piece is kept; what it was told is
        free again with the block. It raises HttpError 503 where there is no room."""
        held_bytes = 0

        def take(size_bytes: int) -> None:
            nonlocal held_bytes
            if not self.take(holder, size_bytes):
                raise _no_room()
            held_bytes += size_bytes

        try:
            yield take
        finally:
            self.give_back(holder, held_bytes)


def _no_room() -> HttpError:
    return HttpError(
        503,
        "too many bodies, or too many of yours, are arriving at this moment; send it again in a "
        "little while",
        "service_unavailable",
        # What is left of the body would be read as the next request.
        {"connection": "close", "retry-after": str(RETRY_SECONDS)},
    )
