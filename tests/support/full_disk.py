"""A disk that is full, as far as this process can tell."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_file_grows_beyond(size_bytes: int) -> Iterator[None]:
    """The kernel refuses longer files as it does on a full disk, for root as well.

    For a few lines of a test only, never as a fixture: where pytest's own output goes to a file,
    its report of the test would be refused too, and the run would die.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
