"""Time of day for everything that the scheduler decides and writes down."""

from __future__ import annotations

import time
from typing import Protocol

SLEW_MAX = 0.5
"""How much faster or slower than real seconds our time may pass while it follows the wall clock."""


class Clock(Protocol):
    """Milliseconds since 1970-01-01 UTC that never go back."""

    def now_ms(self) -> int: ...


class SystemClock:
    """The wall clock with its steps smoothed out.

    Leases and deadlines are read from one clock. Deadlines are in the callers' wall-clock time,
    but a wall clock that is set an hour forward must not end every lease, nor one set back reorder
    requests: so steps are followed slowly, and time that the machine slept counts as passed.
    """

    def __init__(self) -> None:
        self._elapsed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._now_ns = float(time.time_ns())

    def now_ms(self) -> int:
        elapsed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        passed_ns = elapsed_ns - self._elapsed_ns
        self._elapsed_ns = elapsed_ns
        behind_ns = time.time_ns() - self._now_ns
        slowest, fastest = passed_ns * (1 - SLEW_MAX), passed_ns * (1 + SLEW_MAX)
        self._now_ns += min(max(behind_ns, slowest), fastest)
        return int(self._now_ns) // 1_000_000
