"""How long one model's pauses are: the histogram by which it is kept, let go and brought back.

The hybrid histogram of "Serverless in the Wild" (USENIX ATC 2020): pauses in bins of a minute over
four hours. A model is worth having from a little before the 5th percentile of its pauses until a
little after the 99th; in between it may be elsewhere. Where the histogram says nothing (too few
pauses, too many that were longer than it reaches, or pauses without a pattern) a fixed time is the
fallback. Added here: the hazard, by which keeping is weighed in money.
"""

from __future__ import annotations

import math
from typing import NamedTuple

BIN_MS = 60_000
BINS = 240
PAUSES_MIN = 8
"""Fewer say nothing."""
BEYOND_MAX = 0.5
"""More of them longer than the histogram reaches, and it says nothing."""
VARIATION_MIN = 2.0
"""Of the bins' counts (standard deviation by mean): below that the pauses have no pattern."""
HEAD, TAIL, MARGIN = 0.05, 0.99, 0.1
HALVE_AT = 512
"""Pauses after which all counts are halved, so that old habits fade."""


class Window(NamedTuple):
    """A model is worth having this long after its last use, or from here to there."""

    from_ms: int
    until_ms: int
    learned: bool

    def holds(self, idle_ms: int) -> bool:
        return self.from_ms <= idle_ms <= self.until_ms


class IdleTimes:
    """The pauses of one model. Sparse: most models have few bins."""

    __slots__ = ("_beyond", "_bins", "_count", "_window")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._count = 0
        self._beyond = 0
        self._window: Window | None = None

    @property
    def count(self) -> int:
        return self._count + self._beyond

    def note(self, pause_ms: int) -> None:
        """One pause, from the end of the last request to the next one's arrival."""
        self._window = None
        index = max(0, pause_ms) // BIN_MS
        if index >= BINS:
            self._beyond += 1
        else:
            self._bins[index] = self._bins.get(index, 0) + 1
            self._count += 1
        if self.count >= HALVE_AT:
            self._bins = {index: count // 2 for index, count in self._bins.items() if count > 1}
            self._count = sum(self._bins.values())
            self._beyond //= 2

    def representative(self) -> bool:
        """Whether the histogram says anything about the next pause."""
        if self.count < PAUSES_MIN or self._beyond > BEYOND_MAX * self.count:
            return False
        mean = self._count / BINS
        spread = sum((count - mean) ** 2 for count in self._bins.values())
        spread += (BINS - len(self._bins)) * mean * mean
        return math.sqrt(spread / BINS) >= VARIATION_MIN * mean

    def window(self, fallback_ms: int) -> Window:
        """When the model is worth having after its last use."""
        if self._window is None:
            if not self.representative():
                return Window(0, fallback_ms, learned=False)
            head, tail = self._percentile(HEAD), self._percentile(TAIL)
            self._window = Window(
                round(head * BIN_MS * (1 - MARGIN)),
                round((tail + 1) * BIN_MS * (1 + MARGIN)),
                learned=True,
            )
        return self._window

    def hazard_per_second(self, idle_ms: int, until_ms: int) -> float:
        """How likely the next request is in each second from now to `until_ms`, on average, given
        that there was none for `idle_ms`."""
        seconds = (until_ms - idle_ms) / 1000
        if seconds <= 0:
            return 0.0
        now = idle_ms // BIN_MS
        later = sum(count for index, count in self._bins.items() if index >= now)
        alive = later + self._beyond
        return later / alive / seconds if alive else 0.0

    def _percentile(self, share: float) -> int:
        """The bin at which so large a share of the pauses within reach has ended."""
        wanted, seen = share * self._count, 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen >= wanted:
                return index
        return max(self._bins, default=0)
