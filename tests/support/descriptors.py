"""A process that may open hardly anything more."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def few_descriptors_left(count: int) -> Iterator[None]:
    """This process may open so many more, and gets its own limit back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What the listing itself has open is among its names, and gone when it is looked at.
    used = {int(each) for each in os.listdir("/proc/self/fd") if Path("/dev/fd", each).exists()}
    free = (number for number in itertools.count() if number not in used)
    (limit,) = itertools.islice(free, count, count + 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
