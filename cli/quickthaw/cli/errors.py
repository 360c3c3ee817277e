"""What a command may end with, and what that looks like to its caller.

Exit statuses: 0 it worked; 1 it failed; 2 it was called wrongly; 130 it was interrupted.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class PartFailed(Exception):
    """A part of the platform ended before it was ready, or keeps ending.

    `last_lines` is what it said last.
    """

    def __init__(self, message: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.last_lines = last_lines


class UsageFault(Exception):
    """The command line makes no sense in a way that only the platform could tell; status 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
